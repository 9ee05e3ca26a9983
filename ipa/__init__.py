"""IP-Adapter for Apple MLX, with a PyTorch reference: pictures as prompts for Stable Diffusion.

import ipa
pipe = ipa.load("demo")
"""

from __future__ import annotations

from ipa import face_embedder
from ipa.contract.control import Control
from ipa.contract.embeds import ImageEmbeds
from ipa.contract.errors import (
    BackendError,
    Cancelled,
    CheckpointError,
    IpaError,
    NumericalError,
    RequestError,
)
from ipa.contract.faces import Face
from ipa.contract.image_prompt import ImagePrompt
from ipa.contract.result import Progress, Result
from ipa.loading import load
from ipa.pipeline import Pipeline

__version__ = "0.1.0"

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
    "Pipeline",
    "Progress",
    "RequestError",
    "Result",
    "__version__",
    "face_embedder",
    "load",
]
