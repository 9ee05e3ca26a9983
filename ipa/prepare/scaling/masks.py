"""Masks at the attentions: what multiplies an image prompt at each query."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.arrays import Doubles, Floats
from ipa.errors import RequestError
from ipa.model.folder import ModelFolder
from ipa.model.sites import Site
from ipa.prepare.editing.inpainting import cropped_mask
from ipa.prepare.images.resample import resample
from ipa.request.editing import Crop
from ipa.request.masks import FITS, MaskValues

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
    """Resize (H, W) to (rows, columns) as torch's `interpolate(mode="bilinear")`, unrounded."""
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


SiteMasks = tuple[Floats | None, ...]
"""For each site, in the order of site numbers, what multiplies an image branch: (rows · columns,),
row by row; None is 1 everywhere."""


SOFT = "soft"


_MASK_FACTOR = 8  # of which IPAdapterMaskProcessor makes the sides multiples, whatever the VAE's is


@dataclass(frozen=True, slots=True)
class Canvas:
    """The picture to be made: its size in pixels, the grid of the queries of every site, and that
    of the latents; where it is a part of another one, which."""

    width: int
    height: int
    grids: tuple[Grid, ...]
    latents: Grid
    crop: Crop | None = None

    @classmethod
    def of(cls, model: ModelFolder, width: int, height: int, crop: Crop | None = None) -> Canvas:
        """The canvas of a picture; each level of the UNet halves the grid, rounded up."""
        factor, last = model.vae.scale_factor, len(model.unet.channels) - 1
        grids = [(height // factor, width // factor)]
        for _ in range(last):
            rows, columns = grids[-1]
            grids.append((-(-rows // 2), -(-columns // 2)))
        sizes = tuple(grids[_level(site, last)] for site in model.sites)
        return cls(width, height, sizes, grids[0], crop)

    @property
    def extent(self) -> tuple[int, int]:
        """The width and height that masks lie over: the whole picture, before a crop."""
        return (self.width, self.height) if self.crop is None else self.crop.size

    def over(self, mask: MaskValues, fit: str | None, where: str) -> MaskValues:
        """The part of a mask that lies over this picture; arguments are those of `masks`."""
        fitted = fit_mask(mask, *self.extent, fit, where)
        if self.crop is None:
            return fitted
        return cropped_mask(fitted, self.width, self.height, self.crop)

    def misses(self, mask: MaskValues, fit: str | None, where: str) -> bool:
        """Whether a mask is on somewhere, but nowhere in this part of the picture."""
        if self.crop is None or not mask.any():
            return False
        return not self.over(mask, fit, where).any()

    def warnings(self, rule: str = SOFT) -> list[str]:
        """Warnings for any mask on this canvas."""
        chosen = MASK_RULES[rule]
        wrong = sum(chosen.grid(r * c, self) != (r, c) for r, c in self.grids)
        if not wrong:
            return []
        return [
            f"{self.width} × {self.height} is a size at which {chosen.program} rule, which is "
            f"followed here, lays masks out wrongly in {wrong} of {len(self.grids)} "
            "cross-attentions; sides in multiples of 64 avoid it"
        ]

    def masks(self, mask: Any, fit: str | None, where: str, rule: str = SOFT) -> SiteMasks | None:
        """The mask of an image prompt at every site.

        Args:
            mask: Its values (H, W), or None.
            fit: See `fit_mask`.
            where: What to call it in messages.
            rule: A name of MASK_RULES.

        Returns:
            None where there is no mask, or one of ones: then nothing is multiplied at all. By the
            other programs' rules, ones are padded with zeros where their grids do not fit.

        Raises:
            RequestError: Its aspect does not fit.
        """
        if mask is None:
            return None
        fitted = self.over(mask, fit, where)
        if rule == SOFT and (fitted == 1.0).all():
            return None
        chosen = MASK_RULES[rule]
        prepared = chosen.prepared(fitted, self)
        by_grid = {(r, c): chosen.at(prepared, r * c, self) for r, c in set(self.grids)}
        if rule != SOFT and all((values == 1.0).all() for values in by_grid.values()):
            return None
        return tuple(by_grid[grid] for grid in self.grids)


@dataclass(frozen=True, slots=True)
class MaskRule:
    """One program's way from a mask to a site.

    Attributes:
        program: Whose, in the genitive, for messages.
        prepared: The mask (H, W) before any site.
        grid: The grid that is guessed for a number of queries.
        at: A prepared mask at a number of queries: (queries,), row by row.
    """

    program: str
    prepared: Callable[[MaskValues, Canvas], MaskValues]
    grid: Callable[[int, Canvas], Grid]
    at: Callable[[MaskValues, int, Canvas], Floats]


def _level(site: Site, last: int) -> int:
    return {"down": site.block, "up": last - site.block, "mid": last}[site.section]


def fit_mask(mask: MaskValues, width: int, height: int, fit: str | None, where: str) -> MaskValues:
    """A mask whose grid covers a picture of width × height pixels.

    A side may be off by the rounding of a pixel. Any other aspect is refused with fit=None, taken
    as it is with "stretch", and cut about its middle with "crop".

    Raises:
        RequestError: The aspect differs, and no fit was asked for.
    """
    rows, columns = mask.shape
    if abs(columns * height - rows * width) < max(width, height) or fit == "stretch":
        return mask
    if fit == "crop":
        tall = min(rows, max(1, round(columns * height / width)))
        wide = min(columns, max(1, round(rows * width / height)))
        top, left = (rows - tall) // 2, (columns - wide) // 2
        return mask[top : top + tall, left : left + wide]
    raise RequestError(
        f"{where} has another aspect than the picture",
        found=f"{columns} × {rows}, needed {width} × {height} or any size of that aspect",
        remedy=f"resize it, or pass mask_fit={' or mask_fit='.join(map(repr, FITS))}",
    )


def binarised(mask: MaskValues, canvas: Canvas) -> MaskValues:
    """A mask in black and white, in the picture's size (`IPAdapterMaskProcessor.preprocess`).

    Resized in 8 bits with Lanczos' filter, then cut at a half; the sides lose what is over eight.
    diffusers takes arrays to the nearest pixel instead; here all masks are treated as pictures.
    """
    wide, tall = _binary_size(canvas)
    grey = Image.fromarray(np.round(mask * np.float32(255.0)).astype(np.uint8))
    resized = np.asarray(grey.resize((wide, tall), resample=Image.Resampling.LANCZOS))
    return (resized.astype(np.float32) / np.float32(255.0) >= 0.5).astype(np.float32)


def _binary_size(canvas: Canvas) -> tuple[int, int]:
    """The width and height of a binarised mask; diffusers fails below eight pixels."""
    wide, tall = (
        max(_MASK_FACTOR, side - side % _MASK_FACTOR) for side in (canvas.width, canvas.height)
    )
    return wide, tall


def silence(scales: Sequence[float], masks: SiteMasks | None) -> tuple[float, ...]:
    """The λ per site, set to 0 where the mask is empty: the base model, bit for bit."""
    if masks is None:
        return tuple(scales)
    return tuple(
        scale if mask is None or mask.any() else 0.0
        for scale, mask in zip(scales, masks, strict=True)
    )


def guessed_grid(queries: int, ratio: float) -> Grid:
    """The grid that diffusers guesses for a number of queries.

    It is the site's own for every size in multiples of 64 pixels from 256 to 1536 but one (1152 ×
    448, coarsest level), and for nine in ten of those in multiples of 8 from 256 to 1024.
    """
    rows = min(max(1, int(math.sqrt(queries / ratio))), queries)  # where diffusers fails
    rows += queries % rows != 0
    return rows, queries // rows


def downsample(mask: MaskValues, queries: int, ratio: float) -> Floats:
    """A mask (H, W) at one cross-attention: (queries,), row by row; ratio is width over height.

    Where the guessed grid has fewer places, the last queries get 0; where it has more, its last
    ones are cut. Beside hard edges values lie a little outside [0, 1], as a cubic kernel's do.
    """
    rows, columns = guessed_grid(queries, ratio)
    flat = resample(mask, rows, columns).reshape(-1)[:queries]
    return np.pad(flat, (0, queries - flat.size))


def _binary_ratio(canvas: Canvas) -> float:
    wide, tall = _binary_size(canvas)
    return wide / tall


MASK_RULES: Mapping[str, MaskRule] = {
    SOFT: MaskRule(
        "diffusers'",
        lambda mask, _: mask,
        lambda queries, canvas: guessed_grid(queries, canvas.width / canvas.height),
        lambda mask, queries, canvas: downsample(mask, queries, canvas.width / canvas.height),
    ),
    "binary": MaskRule(
        "diffusers'",
        binarised,
        lambda queries, canvas: guessed_grid(queries, _binary_ratio(canvas)),
        lambda mask, queries, canvas: downsample(mask, queries, _binary_ratio(canvas)),
    ),
    "latent grid": MaskRule(
        "ComfyUI's",
        lambda mask, _: mask,
        lambda queries, canvas: latent_grid(queries, canvas.latents),
        lambda mask, queries, canvas: latent_mask(mask, queries, canvas.latents),
    ),
}
"""The rules for masks by name: diffusers' layout with soft edges, diffusers', ComfyUI's.
"""
