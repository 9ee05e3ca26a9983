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

from .old_homes import answer_old_imports
from .version import __version__

if TYPE_CHECKING:
    from ipa.backend.tap import Tap
    from ipa.backend.tiling import VaeTiling
    from ipa.backend.vae_memory import VaeMemory
    from ipa.engine.engine import Engine
    from ipa.engine.job import Job
    from ipa.engine.needs import Needs
    from ipa.engine.supervisor.supervisor import Supervisor
    from ipa.engine.supervisor.task import Task
    from ipa.pipeline.documents.saving import save_picture
    from ipa.pipeline.loading import load
    from ipa.pipeline.pipeline import Pipeline
    from ipa.prepare.editing.outpainting import enlarge, outpaint
    from ipa.prepare.image_prompts.ipadpt import write_ipadpt
    from ipa.prepare.images.pictures import open_image
    from ipa.request.control import Control
    from ipa.request.embeds import ImageEmbeds
    from ipa.request.faces import Face, FaceEmbedder
    from ipa.request.image_prompt import ImagePrompt
    from ipa.request.influence import Influence
    from ipa.request.pictures import Picture
    from ipa.request.result import Progress, Result
    from ipa.request.scales import Curve, Layers, Scale, StepWeights
    from ipa.watching import CancelSignal

    from . import controls as controls
    from . import demo as demo
    from . import face_embedder as face_embedder
    from . import parity as parity
    from . import sheets as sheets
    from .errors import (
        BackendError,
        Cancelled,
        CheckpointError,
        DeadlineExceeded,
        EngineBusy,
        EngineClosed,
        EngineError,
        IpaError,
        NumericalError,
        OutOfMemory,
        ParityError,
        PipelineBusy,
        PipelineClosed,
        RequestError,
        WorkerLost,
    )

__all__ = [
    "BackendError",
    "CancelSignal",
    "Cancelled",
    "CheckpointError",
    "Control",
    "Curve",
    "DeadlineExceeded",
    "Engine",
    "EngineBusy",
    "EngineClosed",
    "EngineError",
    "Face",
    "FaceEmbedder",
    "ImageEmbeds",
    "ImagePrompt",
    "Influence",
    "IpaError",
    "Job",
    "Layers",
    "Needs",
    "NumericalError",
    "OutOfMemory",
    "ParityError",
    "Picture",
    "Pipeline",
    "PipelineBusy",
    "PipelineClosed",
    "Progress",
    "RequestError",
    "Result",
    "Scale",
    "StepWeights",
    "Supervisor",
    "Tap",
    "Task",
    "VaeMemory",
    "VaeTiling",
    "WorkerLost",
    "__version__",
    "controls",
    "demo",
    "enlarge",
    "face_embedder",
    "load",
    "open_image",
    "outpaint",
    "parity",
    "save_picture",
    "sheets",
    "write_ipadpt",
]

_ERRORS = (
    *("BackendError", "Cancelled", "CheckpointError", "IpaError", "NumericalError"),
    *("OutOfMemory", "ParityError", "RequestError", "PipelineBusy", "PipelineClosed"),
    *("DeadlineExceeded", "EngineBusy", "EngineClosed", "EngineError", "WorkerLost"),
)
_HOMES = {
    **dict.fromkeys(_ERRORS, "ipa.errors"),
    **dict.fromkeys(("Curve", "Layers", "Scale", "StepWeights"), "ipa.request.scales"),
    **dict.fromkeys(("Face", "FaceEmbedder"), "ipa.request.faces"),
    "Engine": "ipa.engine.engine",
    "Job": "ipa.engine.job",
    "Needs": "ipa.engine.needs",
    "Supervisor": "ipa.engine.supervisor.supervisor",
    "Task": "ipa.engine.supervisor.task",
    "ImagePrompt": "ipa.request.image_prompt",
    "Picture": "ipa.request.pictures",
    **dict.fromkeys(("Progress", "Result"), "ipa.request.result"),
    "CancelSignal": "ipa.watching",
    "Control": "ipa.request.control",
    "ImageEmbeds": "ipa.request.embeds",
    "Influence": "ipa.request.influence",
    "Pipeline": "ipa.pipeline",
    "Tap": "ipa.backend.tap",
    "VaeMemory": "ipa.backend.vae_memory",
    "VaeTiling": "ipa.backend.tiling",
    "enlarge": "ipa.prepare.editing.outpainting",
    "load": "ipa.pipeline.loading",
    "open_image": "ipa.prepare.images",
    "outpaint": "ipa.prepare.editing.outpainting",
    "save_picture": "ipa.pipeline.documents.saving",
    "write_ipadpt": "ipa.prepare.image_prompts.ipadpt",
}

answer_old_imports()

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name, or a module of this package, when it is first asked for."""
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        place = f"{__name__}.{name}"
        try:
            if not name.startswith("_") and importlib.util.find_spec(place):
                return importlib.import_module(place)
        except ModuleNotFoundError as error:  # it has moved, and the message says where to
            raise AttributeError(str(error)) from error
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """The public names."""
        return list(__all__)
