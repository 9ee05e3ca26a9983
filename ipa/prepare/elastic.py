"""A picture blurred, and a picture deformed at random.

Source: torchvision's gaussian_blur and ElasticTransform (transforms/v2), and torch's grid_sample
(bilinear, zeros outside, align_corners=False). Computed in float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .noise import NoiseStream

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def blurred(picture: npt.NDArray[np.floating], side: int, sigma: float) -> Floats:
    """(H, W, …) by a gaussian kernel of an odd side, mirrored at the edges.

    As torchvision has it, where the kernel's ends stand at side / √8 and not at its last pixels:
    it is wider than its sigma says.
    """
    end = (side - 1) / (2.0 * np.sqrt(2.0))
    kernel = np.exp(-((np.linspace(-end, end, side) / sigma) ** 2))
    kernel /= kernel.sum()
    values = np.asarray(picture, np.float64)
    for axis in (0, 1):
        widths = [(0, 0)] * values.ndim
        widths[axis] = (side // 2, side // 2)
        wide, count = np.pad(values, widths, mode="reflect"), values.shape[axis]
        shifted = (wide.take(range(n, n + count), axis=axis) for n in range(side))
        values = sum((w * part for w, part in zip(kernel, shifted, strict=True)), np.zeros(()))
    return values.astype(np.float32)


def deformed(picture: Floats, alpha: float, sigma: float, noise: NoiseStream) -> Floats:
    """(H, W, C) with every pixel taken from another place near its own; black outside.

    Args:
        picture: In [0, 1].
        alpha: Twice the farthest that a pixel may come from.
        sigma: How alike the moves of neighbours are, in pixels; at 0 each has its own.
        noise: Where the moves are drawn from: first across, then down.
    """
    height, width = picture.shape[:2]
    across, down = (
        _moves(noise, (height, width), sigma) * alpha / side for side in (width, height)
    )
    # grid_sample's own coordinates: the picture goes from -1 to 1.
    x = ((_centres(width)[None, :] + across + 1.0) * width - 1.0) / 2.0
    y = ((_centres(height)[:, None] + down + 1.0) * height - 1.0) / 2.0
    # What is sampled beside it says where the picture ends; torchvision multiplies by it once more.
    framed = np.concatenate([picture, np.ones_like(picture[..., :1])], axis=2)
    sampled = _bilinear(framed, x, y)
    return (sampled[..., :-1] * sampled[..., -1:]).astype(np.float32)


def _moves(noise: NoiseStream, shape: tuple[int, int], sigma: float) -> Doubles:
    drawn = noise.uniform(shape) * np.float32(2.0) - np.float32(1.0)
    if sigma <= 0.0:
        return drawn.astype(np.float64)
    return blurred(drawn, int(8 * sigma + 1) | 1, sigma).astype(np.float64)


def _centres(side: int) -> Doubles:
    return np.linspace((1 - side) / side, (side - 1) / side, side)


def _bilinear(picture: Floats, x: Doubles, y: Doubles) -> Doubles:
    """(H, W, C) at places in pixels (H, W), zeros outside."""
    height, width = picture.shape[:2]
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    total = np.zeros((*x.shape, picture.shape[2]))
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        weight = (1.0 - np.abs(x - column)) * (1.0 - np.abs(y - row)) * inside
        taken = picture[row.clip(0, height - 1), column.clip(0, width - 1)]
        total += taken * weight[..., None]
    return total
