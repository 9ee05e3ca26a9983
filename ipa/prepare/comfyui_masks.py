"""Masks at a UNet's cross-attentions as ComfyUI lays them out.

Source: ComfyUI_IPAdapter_plus (CrossAttentionPatch.py) over torch's bilinear interpolation
(half-pixel centres, no antialiasing). The grid is guessed from the latents' aspect, grey stays, and
what does not fit is padded with zeros, or cut, on both sides.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ipa.contract.masks import MaskValues

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Grid = tuple[int, int]


def latent_grid(queries: int, latents: Grid) -> Grid:
    """The grid that ComfyUI takes for a number of queries; latents are (rows, columns)."""
    tall, wide = latents
    rows = int(tall / math.sqrt(tall * wide / queries))
    rows = min(max(1, rows), queries)  # where ComfyUI fails
    rows += queries % rows != 0
    return rows, queries // rows


def latent_mask(mask: MaskValues, queries: int, latents: Grid) -> Floats:
    """A mask (H, W) at one cross-attention: (queries,), row by row."""
    flat = bilinear(mask, *latent_grid(queries, latents)).reshape(-1)
    spare = queries - flat.size
    if spare < 0:
        return flat[-spare // 2 :][:queries]
    return np.pad(flat, (spare // 2, spare - spare // 2))


def bilinear(mask: MaskValues, rows: int, columns: int) -> Floats:
    """torch's `interpolate(mode="bilinear")` of (H, W) to (rows, columns), but for its rounding."""
    down, right = _neighbours(mask.shape[0], rows), _neighbours(mask.shape[1], columns)
    total = np.zeros((rows, columns))
    for row, row_weight in down:
        for column, weight in right:
            total += mask[row[:, None], column] * (row_weight[:, None] * weight)
    return total.astype(np.float32)


def _neighbours(size: int, target: int) -> list[tuple[npt.NDArray[np.int64], Doubles]]:
    """Indices and weights of the two neighbours of every place along one axis."""
    scale = np.float64(np.float32(size) / np.float32(target))
    # Rounded to float32 once, as torch's fused multiplication does: see `masks`.
    place = (scale * (np.arange(target) + 0.5) - 0.5).astype(np.float32).astype(np.float64)
    place = np.maximum(place, 0.0)
    first = np.minimum(np.floor(place).astype(np.int64), size - 1)
    t = place - first
    return [(first, 1.0 - t), (np.minimum(first + 1, size - 1), t)]
