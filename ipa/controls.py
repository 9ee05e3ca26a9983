"""Preprocessors that make control pictures: outlines and edges.

from ipa.controls import canny
ipa.Control(image=picture, preprocessor=canny)
"""

from ipa.prepare.controls.preprocessors import canny, edges

__all__ = ["canny", "edges"]


def __dir__() -> list[str]:
    """The public names: the preprocessors."""
    return list(__all__)
