"""The PyTorch reference over diffusers and transformers. Importing it imports no torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipa.model.folder import ModelFolder
    from ipa.pipeline.pipeline import Pipeline

    from .backend import TorchBackend


def load(model: str, **options: Any) -> Pipeline:
    """`ipa.load` with the backend fixed to "torch"."""
    import ipa

    return ipa.load(model, backend="torch", **options)


def open_backend(
    model: ModelFolder, *, dtype: str | None = None, device: str | None = None
) -> TorchBackend:
    """Load a model folder into the PyTorch backend; called by `ipa.load`."""
    from .startup import start

    start()  # before torch's own libraries are loaded, or it has no effect
    from . import backend

    return backend.load(model, dtype=dtype, device=device)


def ran_out(error: BaseException) -> bool:
    """Whether an error of the framework, which is loaded, says that memory ran out."""
    from .residency import ran_out as is_shortage

    return is_shortage(error)


def environment() -> dict[str, str]:
    """Facts of what torch runs on here, by name; loads torch."""
    from .startup import has_steady_products, start

    start()
    import torch

    from .files.weights import best_device

    return {
        "device": best_device(),
        "threads": str(torch.get_num_threads()),
        "products": "the same bits" if has_steady_products() else "bits vary with alignment",
    }


def end_thread() -> None:
    """Give freed memory of a GPU back; nothing else of torch's belongs to the calling thread."""
    if "torch" not in sys.modules:
        return
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
