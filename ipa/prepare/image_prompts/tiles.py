"""A picture cut into square tiles, each an image prompt of its own that acts where it lies.

Source: ComfyUI_IPAdapter_plus (IPAdapterTiled). A picture whose height over width is between 0.75
and 1.33 is cropped to its middle square and becomes 2 × 2 tiles; any other becomes one row or
column of two to four, which overlap, of a longer one the middle. A tile's side is 8/7 of what the
encoder sees, as ComfyUI's 256 is of 224. Three things are decided otherwise here than there, and
followed under its profiles (D26 and D27 of `profiles`): a mask of the prompt's own stays where it
is in the picture to be made, where ComfyUI crops it as it crops the reference; the masks of tiles
are laid over that picture, where ComfyUI's are in the pixels that tiles are cut from; sharpening
acts on what the encoder sees, where ComfyUI sharpens the picture before it is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.arrays import Floats
from ipa.prepare.images.comfyui_pixels import middle_corner, resized_floats
from ipa.prepare.images.fit import sharpened_floats
from ipa.prepare.images.pictures import check_pixels, to_rgb
from ipa.prepare.scaling.masks import Canvas, fit_mask
from ipa.request.image_prompt import ImagePrompt
from ipa.request.masks import MaskValues
from ipa.request.picture_options import CENTER_CROP, TILE, Box
from ipa.request.pictures import Picture
from ipa.request.profiles import HOUSE, Profile

from .encoder_masks import picture_masks

_SQUARE = (0.75, 1.33)  # heights over widths between which the middle square is taken


_MOST = 4  # tiles in a row


_MARGIN = 8 / 7  # a tile's side over what the encoder sees: ComfyUI's 256 over 224


@dataclass(frozen=True, slots=True)
class Tile:
    """A square of a picture: its pixels, and its place in the part that was not cut away.

    `image` is an array in [0, 1] where the picture was sharpened. `slices` are its rows and columns
    there.
    """

    image: Picture
    box: Box
    slices: tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class TiledPart:
    """A part of an image prompt with the mask of its place, and how that is made to fit."""

    prompt: ImagePrompt
    mask: MaskValues | None
    mask_fit: str | None


@dataclass(frozen=True, slots=True)
class Cuts:
    """The sizes to which a picture is resized and cropped before tiles are cut.

    Its middle of the size `crop` is resized to `resized`, of which the middle is `kept`.
    """

    crop: tuple[int, int]
    resized: tuple[int, int]
    kept: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], length: int) -> Cuts:
        """The cuts for a picture of this size: one of its sides becomes a tile's or two.

        Raises:
            RequestError: The picture is so long that it cannot be resized.
        """
        (width, height), crop = size, size
        if _SQUARE[0] < height / width < _SQUARE[1]:
            crop, resized = (min(size), min(size)), (2 * length, 2 * length)
        elif height < width:
            resized = (int(length * width / height), length)
        else:
            resized = (length, int(length * height / width))
        check_pixels(
            *resized, "a picture resized to be cut into tiles", "crop it nearer to a square"
        )
        return cls(
            crop, resized, (min(resized[0], _MOST * length), min(resized[1], _MOST * length))
        )


def tiled(
    part: ImagePrompt, side: int, canvas: Canvas, where: str, profile: Profile = HOUSE
) -> tuple[TiledPart, ...]:
    """A prompt of one picture as prompts of its tiles; any other fit is left as it is.

    Args:
        part: One of `ImagePrompt.parts`.
        side: Pixels of the square that the encoder sees.
        canvas: The picture to be made, over which (if it is cropped, over all of which) the tiles
            are stretched.
        where: What to call its mask in messages.
        profile: Whose masks and sharpening are followed.

    Raises:
        RequestError: The picture cannot be used, or a mask does not fit.
    """
    if part.fit != TILE:
        mask: Any = part.mask  # `ImagePrompt` read it
        return (TiledPart(part, mask, part.mask_fit),)
    prompt_mask = _own_mask(part, canvas, where)
    tiles = tile_prompts(part, side, profile)
    if profile.tile_masks == "canvas":
        return tuple(
            TiledPart(prompt, prompt_mask * coverage(tile.box, *prompt_mask.shape), part.mask_fit)
            for prompt, tile in tiles
        )
    cropped = _cropped_mask(prompt_mask, to_rgb(part.images[0]).size, _length(side))
    return tuple(TiledPart(prompt, _within(cropped, tile), "stretch") for prompt, tile in tiles)


def tile_prompts(
    part: ImagePrompt, side: int, profile: Profile = HOUSE
) -> list[tuple[ImagePrompt, Tile]]:
    """The tiles of a prompt of one picture, as prompts without a mask, and where they lie.

    Raises:
        RequestError: The picture cannot be used, or a mask on it has another aspect.
    """
    (picture,), (mask,) = part.images, picture_masks(part)
    before = part.sharpen if profile.preparation == "before" else 0.0
    tiles = cut(to_rgb(picture), side, before)
    shown: list[MaskValues | None] = [None] * len(tiles)
    if mask is not None:
        shown = [np.asarray(tile.image).clip(0.0, 1.0) for tile in cut(mask, side)]
    bare = replace(part, mask=None, encoder_mask=None, fit=CENTER_CROP)
    bare = replace(bare, sharpen=0.0) if before else bare
    return [
        (replace(bare, image=tile.image, encoder_mask=hidden), tile)
        for tile, hidden in zip(tiles, shown, strict=True)
    ]


def cut(image: Image.Image, side: int, sharpen: float = 0.0) -> tuple[Tile, ...]:
    """Two to four tiles of a picture, in reading order.

    Args:
        image: RGB, or of mode F.
        side: Pixels of the square that the encoder sees; a tile's own are 8/7 of them, rounded up.
        sharpen: How much, before it is cut.

    Raises:
        RequestError: The picture is so long that it cannot be resized.
    """
    length = _length(side)
    cuts = Cuts.of(image.size, length)
    whole = _middle(image, *cuts.crop).resize(cuts.resized, resample=Image.Resampling.LANCZOS)
    whole = _middle(whole, *cuts.kept)
    columns, rows = math.ceil(whole.width / length), math.ceil(whole.height / length)
    places = [
        (left, top)
        for top in _starts(rows, whole.height, length)
        for left in _starts(columns, whole.width, length)
    ]
    sharp = _sharpened(whole, sharpen) if sharpen else None
    return tuple(_tile(whole, sharp, place, length) for place in places)


def coverage(box: Box, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """The share of every pixel of a mask (rows, columns) that lies in a box."""
    left, top, right, bottom = box
    across, down = _overlap(left, right, columns), _overlap(top, bottom, rows)
    return np.multiply.outer(down, across).astype(np.float32)


def _own_mask(part: ImagePrompt, canvas: Canvas, where: str) -> npt.NDArray[np.float32]:
    """The prompt's own mask; ones of the picture's size without one."""
    if part.mask is None:
        return np.ones(canvas.extent[::-1], np.float32)
    mask: MaskValues = part.mask  # type: ignore[assignment]  # `ImagePrompt` read it
    return fit_mask(mask, *canvas.extent, part.mask_fit, where)


def _length(side: int) -> int:
    return math.ceil(side * _MARGIN)


def _cropped_mask(mask: Floats, size: tuple[int, int], length: int) -> Floats:
    """A mask as ComfyUI crops it with the reference of this size: at the tiles' pixels, (H, W)."""
    cuts = Cuts.of(size, length)
    values = resized_floats(mask[None], size[1], size[0])
    for middle, (width, height) in ((cuts.crop, cuts.resized), (cuts.kept, cuts.kept)):
        left, top = middle_corner(values.shape[:0:-1], *middle)
        cropped = values[:, top : top + middle[1], left : left + middle[0]]
        values = resized_floats(cropped, height, width)
    return np.asarray(values[0])


def _within(mask: Floats, tile: Tile) -> Floats:
    """A mask where a tile lies, and 0 elsewhere."""
    alone = np.zeros_like(mask)
    alone[tile.slices] = mask[tile.slices]
    return alone


def _sharpened(image: Image.Image, amount: float) -> Floats:
    """A picture (H, W, 3) in [0, 1], sharpened."""
    unit = np.asarray(image).transpose(2, 0, 1) / np.float64(255.0)
    return sharpened_floats(unit, amount).transpose(1, 2, 0).astype(np.float32)


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = middle_corner(image.size, width, height)
    return image.crop((left, top, left + width, top + height))


def _starts(count: int, extent: int, length: int) -> Iterator[int]:
    """The starts of tiles along one side, evenly spread; a pixel may be lost at the end."""
    overlap = max(0.0, (count * length - extent) / max(1, count - 1))
    return (int(number * (length - overlap)) for number in range(count))


def _tile(whole: Image.Image, sharp: Floats | None, place: tuple[int, int], length: int) -> Tile:
    (left, top), (across, down) = place, whole.size
    right, bottom = left + length, top + length
    box = (left / across, top / down, right / across, bottom / down)
    slices = (slice(top, bottom), slice(left, right))
    image = whole.crop((left, top, right, bottom)) if sharp is None else sharp[slices]
    return Tile(image, box, slices)


def _overlap(low: float, high: float, count: int) -> npt.NDArray[np.float64]:
    """The share of each of `count` equal pieces of [0, 1] that lies between two fractions."""
    edges = np.arange(count)
    covered = np.minimum(high * count, edges + 1) - np.maximum(low * count, edges)
    return np.asarray(np.clip(covered, 0.0, 1.0))
