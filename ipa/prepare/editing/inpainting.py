"""Masks of pictures that are made anew in part: cut, cropped, and laid back over the result.

Source: diffusers' `VaeImageProcessor` (image_processor.py) as its inpainting pipelines use it. The
bytes are its own for PIL pictures; arrays are treated as pictures too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from ipa.arrays import Floats
from ipa.errors import RequestError
from ipa.request.editing import Box, Crop
from ipa.request.masks import Mask, MaskValues, mask_values
from ipa.request.pictures import eight_bits

_LANCZOS = Image.Resampling.LANCZOS


_KEPT_MODES = frozenset({"L", "RGB", "1"})  # resized as they are, then made grey


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay: a picture (RGB) that is laid over a result where its mask is black.

    With a box, the result is that part of the picture, and is put there first.
    """

    original: Image.Image
    mask: Image.Image
    box: Box | None = None

    def over(self, result: Image.Image) -> Image.Image:
        """A result with the overlay, in the original's size."""
        layer = Image.new("RGBa", self.original.size)
        premultiplied = self.original.convert("RGBA").convert("RGBa")
        layer.paste(premultiplied, mask=ImageOps.invert(self.mask.convert("L")))
        below = result
        if self.box is not None:
            left, top, right, bottom = self.box
            below = Image.new("RGBA", self.original.size)
            below.paste(_covering(result, right - left, bottom - top), (left, top))
        below = below.convert("RGB").convert("RGBA")
        below.alpha_composite(layer.convert("RGBA"))
        return below.convert("RGB")


def mask_picture(mask: Mask, blur: float, where: str) -> Image.Image:
    """A mask of any kind as a picture in 8 bits, blurred by so many pixels.

    Raises:
        RequestError: It cannot be used as a mask.
    """
    values = mask_values(mask, where)
    picture = eight_bits(mask, where) if isinstance(mask, Image.Image) else None
    if picture is None or picture.mode not in _KEPT_MODES:
        picture = Image.fromarray(np.round(values * np.float32(255.0)).astype(np.uint8))
    if blur:
        picture = (picture.convert("L") if picture.mode == "1" else picture).filter(
            ImageFilter.GaussianBlur(blur)
        )
    return picture


def binary_mask(mask: Image.Image, width: int, height: int, box: Box | None) -> Floats:
    """A mask of 0 and 1, float32 (height, width): resized, then cut at a half."""
    return binary(sized(mask, width, height, box))


def binary(mask: Image.Image) -> Floats:
    """Values as a mask of 0 and 1, cut at a half."""
    grey = mask.convert("L")
    return (np.asarray(grey).astype(np.float32) / np.float32(255.0) >= 0.5).astype(np.float32)


def sized(picture: Image.Image, width: int, height: int, box: Box | None) -> Image.Image:
    """A picture resized to width × height: all of it, or what lies in a box, as large as fits."""
    if box is None:
        return picture.resize((width, height), resample=_LANCZOS)
    return _inside(picture.crop(box), width, height)


def cropped(picture: Image.Image, width: int, height: int, crop: Crop | None) -> Image.Image:
    """A mask or picture in width × height, cut as the start picture is; without a crop all of it.

    Stretched to the picture's own size first, if it has another.
    """
    if crop is None:
        return sized(picture, width, height, None)
    whole = picture if picture.size == crop.size else picture.resize(crop.size, resample=_LANCZOS)
    return sized(whole, width, height, crop.box)


def cropped_mask(mask: MaskValues, width: int, height: int, crop: Crop) -> MaskValues:
    """A soft mask (H, W), cropped; in its own resolution if the box has the run's aspect."""
    if mask.shape != crop.size[::-1]:
        resized = Image.fromarray(mask).resize(crop.size, resample=Image.Resampling.BICUBIC)
        mask = np.asarray(resized).clip(0.0, 1.0)
    left, top, right, bottom = crop.box
    part = np.ascontiguousarray(mask[top:bottom, left:right])
    if (right - left) * height != (bottom - top) * width:
        part = np.asarray(_inside(Image.fromarray(part), width, height)).clip(0.0, 1.0)
    return part


def crop_box(mask: Image.Image, width: int, height: int, padding: int, where: str) -> Box:
    """The part of a mask's picture that holds what is not black, and `padding` pixels around it.

    Grown to the aspect of width × height as far as the picture reaches.

    Raises:
        RequestError: All of it is black.
    """
    grey = np.asarray(mask.convert("L"))
    rows, columns = np.flatnonzero(grey.any(axis=1)), np.flatnonzero(grey.any(axis=0))
    if rows.size == 0:
        raise RequestError(
            f"{where} is black: there is nothing to crop to",
            remedy="paint white what is to be made anew, or leave padding_mask_crop out",
        )
    tall, wide = grey.shape
    left, right = max(int(columns[0]) - padding, 0), min(int(columns[-1]) + 1 + padding, wide)
    top, bottom = max(int(rows[0]) - padding, 0), min(int(rows[-1]) + 1 + padding, tall)
    aspect = width / height
    if (right - left) / (bottom - top) > aspect:
        top, bottom = _grown(top, bottom, (right - left) / aspect, tall)
    else:
        left, right = _grown(left, right, (bottom - top) * aspect, wide)
    return left, top, right, bottom


def _grown(first: int, last: int, wanted: float, limit: int) -> tuple[int, int]:
    """An interval grown to a length about its middle, moved and cut to lie within 0 and limit."""
    extra = int(wanted - (last - first))
    first, last = first - extra // 2, last + extra - extra // 2
    if last >= limit:
        first, last = first - (last - limit), limit
    if first < 0:
        first, last = 0, last - first
    return first, min(last, limit)


def _inside(picture: Image.Image, width: int, height: int) -> Image.Image:
    """A whole picture in the middle of width × height, its edges stretched to fill the rest."""
    size, (left, top) = inside(picture.size, width, height)
    small = picture.resize(size, resample=_LANCZOS)
    canvas = Image.new("F" if picture.mode == "F" else "RGB", (width, height))
    canvas.paste(small, box=(left, top))
    if top > 0:
        edges = ((0, 0, width, 0), (0, size[1], width, size[1]))
        for edge, place in zip(edges, (0, top + size[1]), strict=True):
            canvas.paste(small.resize((width, top), box=edge), box=(0, place))
    elif left > 0:
        edges = ((0, 0, 0, height), (size[0], 0, size[0], height))
        for edge, place in zip(edges, (0, left + size[0]), strict=True):
            canvas.paste(small.resize((left, height), box=edge), box=(place, 0))
    return canvas


def inside(
    picture: tuple[int, int], width: int, height: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size and the corner (left, top) of a picture that is fitted inside width × height."""
    wide, tall = picture
    is_wide = width / height < wide / tall
    size = (width, tall * width // wide) if is_wide else (wide * height // tall, height)
    return size, (width // 2 - size[0] // 2, height // 2 - size[1] // 2)


def _covering(picture: Image.Image, width: int, height: int) -> Image.Image:
    """A picture that covers width × height, cut about its middle."""
    is_wide = width / height > picture.width / picture.height
    size = (
        (width, picture.height * width // picture.width)
        if is_wide
        else (picture.width * height // picture.height, height)
    )
    canvas = Image.new("RGB", (width, height))
    large = picture.resize(size, resample=_LANCZOS)
    canvas.paste(large, box=(width // 2 - size[0] // 2, height // 2 - size[1] // 2))
    return canvas
