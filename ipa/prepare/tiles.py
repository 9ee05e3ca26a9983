"""A picture cut into square tiles, each an image prompt of its own that acts where it lies.

Source: ComfyUI_IPAdapter_plus (IPAdapterTiled). A picture whose height over width is between 0.75
and 1.33 is cropped to its middle square and becomes 2 × 2 tiles; any other becomes one row or
column of two to four, which overlap, of a longer one the middle. A tile's side is 8/7 of what the
encoder sees, as ComfyUI's 256 is of 224. Two things are decided otherwise here: a mask of the
prompt's own stays where it is in the picture to be made, where ComfyUI crops it as it crops the
reference; and sharpening acts on what the encoder sees, and not on the picture before it is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.contract.fit import CENTER_CROP, TILE, Box
from ipa.contract.image_prompt import ImagePrompt
from ipa.contract.masks import MaskValues

from .comfyui_pixels import middle_corner
from .encoder_masks import picture_masks
from .images import check_pixels, to_rgb
from .masks import Canvas, fit_mask

_SQUARE = (0.75, 1.33)  # heights over widths between which the middle square is taken
_MOST = 4  # tiles in a row
_MARGIN = 8 / 7  # a tile's side over what the encoder sees: ComfyUI's 256 over 224


@dataclass(frozen=True, slots=True)
class Tile:
    """One square of a picture: what it shows, and where it lies in what was not cut away."""

    image: Image.Image
    box: Box


def tiled(part: ImagePrompt, side: int, canvas: Canvas, where: str) -> tuple[ImagePrompt, ...]:
    """A prompt of one picture as prompts of its tiles; any other fit is left as it is.

    Args:
        part: One of `ImagePrompt.parts`.
        side: Pixels of the square that the encoder sees.
        canvas: The picture to be made, over which the tiles are stretched.
        where: What to call its mask in messages.

    Raises:
        RequestError: The picture cannot be used, or a mask does not fit.
    """
    if part.fit != TILE:
        return (part,)
    mask = _own_mask(part, canvas, where)
    return tuple(
        replace(prompt, mask=mask * coverage(box, *mask.shape))
        for prompt, box in tile_prompts(part, side)
    )


def tile_prompts(part: ImagePrompt, side: int) -> list[tuple[ImagePrompt, Box]]:
    """The tiles of a prompt of one picture, as prompts, and where they lie; its mask is left.

    Raises:
        RequestError: The picture cannot be used, or a mask on it has another aspect.
    """
    (picture,), (mask,) = part.images, picture_masks(part)
    tiles = cut(to_rgb(picture), side)
    shown: list[MaskValues | None] = [None] * len(tiles)
    if mask is not None:
        shown = [np.asarray(tile.image).clip(0.0, 1.0) for tile in cut(mask, side)]
    return [
        (replace(part, image=tile.image, fit=CENTER_CROP, encoder_mask=hidden), tile.box)
        for tile, hidden in zip(tiles, shown, strict=True)
    ]


def cut(image: Image.Image, side: int) -> tuple[Tile, ...]:
    """Two to four tiles of a picture, in reading order.

    Args:
        image: RGB, or of mode F.
        side: Pixels of the square that the encoder sees; a tile's own are 8/7 of them, rounded up.

    Raises:
        RequestError: The picture is so long that it cannot be resized.
    """
    length = math.ceil(side * _MARGIN)
    whole = _resized(image, length)
    columns, rows = math.ceil(whole.width / length), math.ceil(whole.height / length)
    return tuple(
        _tile(whole, left, top, length)
        for top in _starts(rows, whole.height, length)
        for left in _starts(columns, whole.width, length)
    )


def coverage(box: Box, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """(rows, columns): the part of every pixel of a mask that lies in a box."""
    left, top, right, bottom = box
    across, down = _overlap(left, right, columns), _overlap(top, bottom, rows)
    return np.multiply.outer(down, across).astype(np.float32)


def _own_mask(part: ImagePrompt, canvas: Canvas, where: str) -> npt.NDArray[np.float32]:
    """The prompt's own mask; ones of the picture's size without one."""
    if part.mask is None:
        return np.ones((canvas.height, canvas.width), np.float32)
    own: MaskValues = part.mask  # type: ignore[assignment]  # `ImagePrompt` read it
    return fit_mask(own, canvas.width, canvas.height, part.mask_fit, where)


def _resized(image: Image.Image, length: int) -> Image.Image:
    """The picture in whose grid the tiles lie: at least one of its sides is a tile's or two."""
    aspect = image.height / image.width
    if _SQUARE[0] < aspect < _SQUARE[1]:
        short = min(image.size)
        size, image = (2 * length, 2 * length), _middle(image, short, short)
    elif aspect < 1:
        size = (int(length * image.width / image.height), length)
    else:
        size = (length, int(length * image.height / image.width))
    check_pixels(*size, "a picture resized to be cut into tiles", "crop it nearer to a square")
    whole = image.resize(size, resample=Image.Resampling.LANCZOS)
    return _middle(whole, *(min(extent, _MOST * length) for extent in size))


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = middle_corner(image.size, width, height)
    return image.crop((left, top, left + width, top + height))


def _starts(count: int, extent: int, length: int) -> Iterator[int]:
    """Where tiles begin along one side, evenly spread; a pixel may be lost at the end."""
    overlap = max(0.0, (count * length - extent) / max(1, count - 1))
    return (int(number * (length - overlap)) for number in range(count))


def _tile(whole: Image.Image, left: int, top: int, length: int) -> Tile:
    right, bottom = left + length, top + length
    across, down = whole.size
    box = (left / across, top / down, right / across, bottom / down)
    return Tile(whole.crop((left, top, right, bottom)), box)


def _overlap(low: float, high: float, count: int) -> npt.NDArray[np.float64]:
    """How much of each of `count` equal pieces of [0, 1] lies between two fractions."""
    edges = np.arange(count)
    covered = np.minimum(high * count, edges + 1) - np.maximum(low * count, edges)
    return np.asarray(np.clip(covered, 0.0, 1.0))
