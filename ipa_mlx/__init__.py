"""IP-Adapter on Apple MLX. Importing this package imports neither mlx nor torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipa.model.folder import ModelFolder
    from ipa.pipeline.pipeline import Pipeline

    from .backend import MlxBackend


def load(model: str, **options: Any) -> Pipeline:
    """`ipa.load` with the backend fixed to "mlx"."""
    import ipa

    return ipa.load(model, backend="mlx", **options)


def open_backend(
    model: ModelFolder,
    *,
    dtype: str | None = None,
    quantize: int | None = None,
    lazy: bool = False,
) -> MlxBackend:
    """Load a model folder into the MLX backend; called by `ipa.load`."""
    from .blas import preload

    preload()  # before MLX's own library is loaded, or it has no effect
    from . import backend

    return backend.load(model, dtype=dtype, quantize=quantize, lazy=lazy)


def ran_out(error: BaseException) -> bool:
    """Whether an error of the framework, which is loaded, says that memory ran out."""
    from .residency import ran_out as is_shortage

    return is_shortage(error)


def environment() -> dict[str, str]:
    """Facts of what MLX runs on here, by name; loads MLX."""
    from .blas import ADVICE, preload

    fast = preload()
    import mlx.core as mx

    facts = {"device": str(mx.default_device())}
    if mx.default_device() == mx.cpu:
        facts["BLAS"] = fast or ADVICE
    return facts


def end_thread() -> None:
    """Give back what MLX keeps for the calling thread, which is about to end.

    MLX ends a thread's streams when the process ends, and then may abort (its issue 3126); it asks
    that threads clear them (its pull request 3395).
    """
    if "mlx.core" not in sys.modules:
        return
    import mlx.core as mx

    mx.synchronize()
    mx.clear_streams()
    mx.clear_cache()
