"""The machine as MLX sees it: its rate of matrix products, and memory."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from ipa.arrays import Floats
from ipa_mlx.backend import MlxBackend
from ipa_mlx.networks.weights import DTYPES


def tensor(array: Floats, backend: MlxBackend) -> mx.array:
    """An array of a backend's precision, evaluated."""
    made = mx.array(array).astype(DTYPES[backend.dtype])
    mx.eval(made)
    return made


def product(shape: tuple[int, int, int], dtype: str, device: str | None) -> Callable[[int], None]:
    """A function that multiplies matrices (a, b) · (b, c) so many times, and waits for them."""
    rows, inner, columns = shape
    draw = np.random.default_rng(0)
    left, right = (
        mx.array(draw.standard_normal(size, np.float32)).astype(DTYPES[dtype])
        for size in ((rows, inner), (inner, columns))
    )
    mx.eval(left, right)
    return lambda count: mx.eval([left @ right for _ in range(count)])


def held_bytes(device: str | None) -> int | None:
    """Bytes of arrays that there are now."""
    return int(mx.get_active_memory())


def wait(device: str | None) -> None:
    """Wait until everything that was asked for is computed."""
    mx.synchronize()


def peak_bytes(device: str | None) -> int | None:
    """The most bytes of arrays since `reset_peak`."""
    return int(mx.get_peak_memory())


def reset_peak(device: str | None) -> None:
    """Count the peak anew."""
    mx.reset_peak_memory()
