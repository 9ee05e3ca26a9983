"""A large picture, computed in overlapping tiles that fade into one another.

As diffusers' `AutoencoderKL.tiled_decode` does it: every tile fades in over the tile above it, then
over the one to its left, linearly, and the tiles that are faded over are those already faded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ipa.contract.backend import Floats
from ipa.contract.tiling import OVERLAP

Compute = Callable[[slice, slice], Floats]


def in_tiles(height: int, width: int, side: int, made_side: int, compute: Compute) -> Floats:
    """What a function makes of a picture, computed tile by tile.

    Args:
        height: Of what goes in.
        width: Likewise.
        side: Of a tile of it.
        made_side: Of what is made of a tile.
        compute: Rows and columns to what is made of them, (1, h, w, C); it is called once a tile,
            and only one row of tiles is kept.

    Returns:
        (1, H, W, C).
    """
    stride, fade = int(side * (1 - OVERLAP)), int(made_side * OVERLAP)
    kept = made_side - fade
    above: list[Floats] = []
    strips = []
    for top in range(0, height, stride):
        row: list[Floats] = []
        for left in range(0, width, stride):
            tile = np.array(compute(slice(top, top + side), slice(left, left + side)))
            if above:
                _fade_in(tile, above[len(row)], fade, axis=1)
            if row:
                _fade_in(tile, row[-1], fade, axis=2)
            row.append(tile)
        strips.append(np.concatenate([tile[:, :kept, :kept] for tile in row], axis=2))
        above = row
    return np.concatenate(strips, axis=1)


def _fade_in(tile: Floats, before: Floats, fade: int, axis: int) -> None:
    """Mix the end of the tile before into the beginning of this one, in place."""
    extent = min(before.shape[axis], tile.shape[axis], fade)
    shape = [1, 1, 1, 1]
    shape[axis] = extent
    weight = (np.arange(extent) / extent).reshape(shape)
    rest, weight = (1 - weight).astype(np.float32), weight.astype(np.float32)
    rows = (slice(None),) * axis
    end = before[(*rows, slice(before.shape[axis] - extent, None))]
    begin = tile[(*rows, slice(0, extent))]
    begin[:] = end * rest + begin * weight
