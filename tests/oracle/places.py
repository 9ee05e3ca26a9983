"""Where torch's float32 interpolation may look, and what the last bit of a place is worth.

A place is scale · (i + ½) − ½. torch rounds it once where it is compiled with fused multiplication,
and twice elsewhere; between the two, values move by no more than the kernel's steepest slope.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LINEAR_SLOPE = 1.0
"""Steepest change of a bilinear value a pixel, of values in [0, 1]."""

CUBIC_SLOPE = 33 / 16
"""Of a bicubic one (a = −3/4): 3/2 along an axis, halfway between pixels, where what the other axis
makes of [0, 1] spans 11/8."""


def leeway(shape: tuple[int, int], grid: tuple[int, int], slope: float) -> Array:
    """How far a machine's interpolation from shape to grid may be from another's, at each place."""
    down, right = (_moved(*sizes) for sizes in zip(shape, grid, strict=True))
    return np.asarray(slope * (down[:, None] + right), np.float32)


def _moved(size: int, target: int) -> Array:
    """How far the places of the two ways to round lie apart."""
    half = np.float32(0.5)
    scale = np.float32(size) / np.float32(target)
    centres = np.arange(target, dtype=np.float32) + half
    twice = scale * centres - half
    once = (np.float64(scale) * centres - 0.5).astype(np.float32)
    return np.abs(twice.astype(np.float64) - once)
