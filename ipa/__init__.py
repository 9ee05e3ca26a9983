"""IP-Adapter for Apple MLX, with a PyTorch reference: pictures as prompts for Stable Diffusion.

import ipa
pipe = ipa.load("demo")

The names in `__all__` are the public interface. They are imported when they are first asked for:
pytest loads a plugin of this package wherever it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from ipa.contract.version import __version__

if TYPE_CHECKING:
    from ipa import demo as demo
    from ipa import face_embedder as face_embedder
    from ipa import parity as parity
    from ipa import sheets as sheets
    from ipa.contract.control import Control
    from ipa.contract.embeds import ImageEmbeds
    from ipa.contract.errors import (
        BackendError,
        Cancelled,
        CheckpointError,
        IpaError,
        NumericalError,
        ParityError,
        RequestError,
    )
    from ipa.contract.faces import Face, FaceEmbedder
    from ipa.contract.image_prompt import ImagePrompt, Picture
    from ipa.contract.influence import Influence
    from ipa.contract.result import Progress, Result
    from ipa.contract.tiling import VaeTiling
    from ipa.contract.weights import Curve, Layers, Scale, StepWeights
    from ipa.loading import load
    from ipa.parity.tap import Tap
    from ipa.pipeline import Pipeline
    from ipa.prepare.enlarging import enlarge
    from ipa.prepare.images import open_image
    from ipa.prepare.ipadpt import write_ipadpt
    from ipa.prepare.outpainting import outpaint
    from ipa.run import CancelSignal

__all__ = [
    "BackendError",
    "CancelSignal",
    "Cancelled",
    "CheckpointError",
    "Control",
    "Curve",
    "Face",
    "FaceEmbedder",
    "ImageEmbeds",
    "ImagePrompt",
    "Influence",
    "IpaError",
    "Layers",
    "NumericalError",
    "ParityError",
    "Picture",
    "Pipeline",
    "Progress",
    "RequestError",
    "Result",
    "Scale",
    "StepWeights",
    "Tap",
    "VaeTiling",
    "__version__",
    "demo",
    "enlarge",
    "face_embedder",
    "load",
    "open_image",
    "outpaint",
    "parity",
    "sheets",
    "write_ipadpt",
]

_ERRORS = (
    *("BackendError", "Cancelled", "CheckpointError", "IpaError", "NumericalError"),
    *("ParityError", "RequestError"),
)
_HOMES = {
    **dict.fromkeys(_ERRORS, "ipa.contract.errors"),
    **dict.fromkeys(("Curve", "Layers", "Scale", "StepWeights"), "ipa.contract.weights"),
    **dict.fromkeys(("Face", "FaceEmbedder"), "ipa.contract.faces"),
    **dict.fromkeys(("ImagePrompt", "Picture"), "ipa.contract.image_prompt"),
    **dict.fromkeys(("Progress", "Result"), "ipa.contract.result"),
    "CancelSignal": "ipa.run",
    "Control": "ipa.contract.control",
    "ImageEmbeds": "ipa.contract.embeds",
    "Influence": "ipa.contract.influence",
    "Pipeline": "ipa.pipeline",
    "Tap": "ipa.parity.tap",
    "VaeTiling": "ipa.contract.tiling",
    "enlarge": "ipa.prepare.enlarging",
    "load": "ipa.loading",
    "open_image": "ipa.prepare.images",
    "outpaint": "ipa.prepare.outpainting",
    "write_ipadpt": "ipa.prepare.ipadpt",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """One of the names above, or a module of this package."""
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """What can be asked for."""
        return list(__all__)
