"""Tiles for the VAE: how large they are, where they lie, how they are blended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ipa.arrays import Floats
from ipa.model.vae import VaeSpec

VaeTiling: TypeAlias = bool | int | None
"""True: tiles of the training size. A number: tiles of that many pixels. False: never. None: as the
setting of `ipa.backend.vae_memory` that is the default."""


OVERLAP = 0.25
"""The share of a tile's side that lies under the next tile."""


QUARTERS = 4
"""Latents in the smallest tile, and what a tile's side must divide into."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The side of a tile in latents and in pixels."""

    latents: int
    pixels: int


def tile_of(vae: VaeSpec, side: int | None, height: int, width: int) -> Tile | None:
    """The tiles for a picture; None where it is no larger than one.

    Args:
        vae: The autoencoder.
        side: Of a tile in pixels; None is that of the pictures that it was trained on.
        height: Of the picture, in pixels.
        width: Likewise.
    """
    unit = QUARTERS * vae.scale_factor
    pixels = max((side or vae.sample_size) // unit, 1) * unit
    if max(height, width) <= pixels:
        return None
    return Tile(pixels // vae.scale_factor, pixels)


Compute = Callable[[slice, slice], Floats]


def in_tiles(height: int, width: int, side: int, made_side: int, compute: Compute) -> Floats:
    """Apply a function to a picture tile by tile, and blend the results.

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
    step = made_side - fade
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
        strips.append(np.concatenate([tile[:, :step, :step] for tile in row], axis=2))
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
