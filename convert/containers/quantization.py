"""Affine quantisation in numpy: the very bits of `mx.quantize` (MLX 0.32, mode "affine", on a CPU).

Per group of weights, in float32: the step is (max − min) / (2ᵇ − 1), at least 1e-7, and points away
from the edge of larger size (that of the maximum if both are equal). It is then adjusted so that
the edge is a whole number of steps from zero, and the edge becomes the offset; so zero and the edge
are exact. Rounding is to nearest even. Scales and offsets are rounded to the weights' own type at
the end, after the weights were divided.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ipa.errors import CheckpointError
from ipa.model.quantization import Quantization

from .dtypes import Array
from .values import cast, widen

PACKED = "U32"
"""Tag of packed weights: the first weight in the lowest bits."""

_PIECE = 1 << 17  # weights; a piece and its temporaries stay in the cache
_SMALLEST_STEP = np.float32(1e-7)

Floats = npt.NDArray[np.float32]


def packed(array: Array, dtype: str, how: Quantization, name: str) -> Array:
    """A matrix (outputs, inputs) in few bits: uint32 of shape `how.packed`.

    Args:
        array: Finite weights; BF16 as uint16.
        dtype: Their safetensors tag.
        how: Bits and group size; the inputs must be whole groups.
        name: The tensor, for messages.

    Raises:
        CheckpointError: A group spans more than float32 holds.
    """
    codes: npt.NDArray[np.uint8] = np.empty(array.size, np.uint8)
    for start, groups in _pieces(array, dtype, how):
        step, offset = _grid(groups, how, name)
        rounded = np.rint((groups - offset[:, None]) / step[:, None])
        codes[start : start + groups.size] = np.clip(rounded, 0, _levels(how)).reshape(-1)
    pairs = codes if how.bits == 8 else codes[0::2] | (codes[1::2] << np.uint8(4))
    return pairs.view("<u4").reshape(how.packed(array.shape))


def scales(array: Array, dtype: str, how: Quantization, name: str) -> Array:
    """The scales of a matrix's groups, in its own type: shape `how.groups`. See `packed`."""
    return _per_group(0, array, dtype, how, name)


def biases(array: Array, dtype: str, how: Quantization, name: str) -> Array:
    """The offsets of a matrix's groups, in its own type: shape `how.groups`. See `packed`."""
    return _per_group(1, array, dtype, how, name)


def _per_group(which: int, array: Array, dtype: str, how: Quantization, name: str) -> Array:
    parts = [_grid(groups, how, name)[which] for _, groups in _pieces(array, dtype, how)]
    values = np.concatenate(parts or [np.empty(0, np.float32)])
    return cast(values, "F32", dtype, name).reshape(how.groups(array.shape))


def _levels(how: Quantization) -> np.float32:
    return np.float32(2**how.bits - 1)


def _grid(groups: Floats, how: Quantization, name: str) -> tuple[Floats, Floats]:
    """Scale and offset of every group, (groups,) each, in float32."""
    high, low = groups.max(axis=1), groups.min(axis=1)
    is_low = np.abs(low) > np.abs(high)
    with np.errstate(over="ignore"):
        step = np.maximum((high - low) / _levels(how), _SMALLEST_STEP)
    if not np.isfinite(step).all():
        raise CheckpointError(
            f"{name} cannot be quantised",
            found=f"weights from {low.min():g} to {high.max():g}",
            remedy="keep its precision: these are no usual weights",
        )
    step = np.where(is_low, step, -step)
    edge = np.where(is_low, low, high)
    steps = np.rint(edge / step)
    is_off_zero = steps != 0
    step = np.divide(edge, steps, out=step, where=is_off_zero)
    return step, np.where(is_off_zero, edge, np.float32(0))


def _pieces(array: Array, dtype: str, how: Quantization) -> Iterator[tuple[int, Floats]]:
    """A matrix's groups, some at a time: (groups, group size) in float32; and where they start."""
    flat = array.reshape(-1)
    size = _PIECE // how.group_size * how.group_size
    for start in range(0, flat.size, size):
        yield start, widen(flat[start : start + size], dtype).reshape(-1, how.group_size)
