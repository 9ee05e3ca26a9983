"""Tiles for the VAE: when a picture is cut into them, and where they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ipa.arrays import Floats
from ipa.errors import RequestError, shown
from ipa.model.vae import VaeSpec

VaeTiling: TypeAlias = bool | int | None
"""True: tiles of the training size. A number: tiles of that many pixels. False: never. None: tiles
where a picture has more than `MOST_PIXELS`. A picture no larger than a tile is never divided."""


MOST_PIXELS = 2048 * 1152
"""The largest picture that is not tiled by default: SDXL's sizes are not, 2048² is."""


OVERLAP = 0.25
"""The share of a tile's side that lies under the next tile."""


_QUARTERS = 4  # latents in the smallest tile, and what a tile's side must divide into


_SMALLEST = 512  # pixels of a tile where nothing is said


@dataclass(frozen=True, slots=True)
class Tile:
    """The side of a tile in latents and in pixels."""

    latents: int
    pixels: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """A VAE's tiling: what was asked for, and the autoencoder that it is for."""

    asked: VaeTiling
    vae: VaeSpec

    def of_pixels(self, height: int, width: int) -> Tile | None:
        """The tiles for a picture of this size; None where it is taken whole."""
        if self.asked is False or (self.asked is None and height * width <= MOST_PIXELS):
            return None
        trained = self.vae.sample_size
        side = trained if self.asked is True else self.asked or max(trained, _SMALLEST)
        unit = _QUARTERS * self.vae.scale_factor
        side = max(side // unit, 1) * unit
        if max(height, width) <= side:
            return None
        return Tile(side // self.vae.scale_factor, side)

    def of_latents(self, height: int, width: int, warnings: list[str]) -> Tile | None:
        """The tiles for latents of this size; None where they are taken whole."""
        factor = self.vae.scale_factor
        tile = self.of_pixels(height * factor, width * factor)
        if tile is not None and self.asked is None:
            warnings.append(
                f"a large picture, decoded in tiles of {tile.pixels} pixels: vae_tiling=False "
                "decodes it whole"
            )
        return tile


def check_tiling(tiling: VaeTiling, spec: VaeSpec) -> VaeTiling:
    """A setting for tiles. Raises RequestError if it is none."""
    if tiling is None or isinstance(tiling, bool):
        return tiling
    unit = _QUARTERS * spec.scale_factor
    if not isinstance(tiling, int) or tiling < unit or tiling % unit:
        raise RequestError(
            "vae_tiling must be True, False, None, or the side of a tile in pixels",
            found=shown(tiling),
            remedy=f"a multiple of {unit} for this VAE, such as 512",
        )
    return tiling


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
