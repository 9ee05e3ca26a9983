"""IP-Adapter for Apple MLX, with a PyTorch reference: pictures as prompts for Stable Diffusion.

import ipa
pipe = ipa.load("demo")

What is named here is imported when it is first asked for: pytest loads a plugin of this package
wherever it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from ipa.contract.version import __version__

if TYPE_CHECKING:
    from ipa import face_embedder as face_embedder
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
    from ipa.contract.faces import Face
    from ipa.contract.image_prompt import ImagePrompt
    from ipa.contract.result import Progress, Result
    from ipa.loading import load
    from ipa.pipeline import Pipeline

__all__ = [
    "BackendError",
    "Cancelled",
    "CheckpointError",
    "Control",
    "Face",
    "ImageEmbeds",
    "ImagePrompt",
    "IpaError",
    "NumericalError",
    "ParityError",
    "Pipeline",
    "Progress",
    "RequestError",
    "Result",
    "__version__",
    "face_embedder",
    "load",
]

_ERRORS = (
    *("BackendError", "Cancelled", "CheckpointError", "IpaError", "NumericalError"),
    *("ParityError", "RequestError"),
)
_HOMES = {
    **dict.fromkeys(_ERRORS, "ipa.contract.errors"),
    "Control": "ipa.contract.control",
    "Face": "ipa.contract.faces",
    "ImageEmbeds": "ipa.contract.embeds",
    "ImagePrompt": "ipa.contract.image_prompt",
    "Pipeline": "ipa.pipeline",
    "Progress": "ipa.contract.result",
    "Result": "ipa.contract.result",
    "load": "ipa.loading",
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
        return sorted({*globals(), *__all__})
