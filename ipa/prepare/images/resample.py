"""Separable resampling of arrays with any filter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ipa.arrays import Doubles, Floats
from ipa.request.masks import MaskValues

_A = -0.75  # torch's cubic kernel


def resample(mask: MaskValues, rows: int, columns: int) -> Floats:
    """Resize (H, W) to (rows, columns) as torch's `interpolate(mode="bicubic")`, unrounded."""
    down, right = _taps(mask.shape[0], rows), _taps(mask.shape[1], columns)
    total = np.zeros((rows, columns))
    for row, row_weight in down:
        for column, weight in right:
            total += mask[row[:, None], column] * (row_weight[:, None] * weight)
    return total.astype(np.float32)


def _taps(size: int, target: int) -> list[tuple[npt.NDArray[np.int64], Doubles]]:
    """Indices and weights of the four neighbours of every place along one axis."""
    scale = np.float64(np.float32(size) / np.float32(target))
    # Rounded to float32 once, as torch's fused multiplication does: beside a hard edge, a bit of a
    # place is worth more than all rounding that follows.
    place = (scale * (np.arange(target) + 0.5) - 0.5).astype(np.float32).astype(np.float64)
    first = np.floor(place)
    t = place - first
    weights = (_outer(1 + t), _inner(t), _inner(1 - t), _outer(2 - t))
    index = first.astype(np.int64)
    return [(np.clip(index + n - 1, 0, size - 1), weight) for n, weight in enumerate(weights)]


def _inner(x: Doubles) -> Doubles:
    """The cubic kernel within one pixel of its centre."""
    return ((_A + 2) * x - (_A + 3)) * x * x + 1


def _outer(x: Doubles) -> Doubles:
    """The cubic kernel from one to two pixels away."""
    return ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
