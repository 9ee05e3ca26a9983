"""Pixels for a CLIP vision tower, byte-exact to transformers' and ComfyUI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ipa.arrays import Bytes, Floats
from ipa.errors import RequestError
from ipa.model.preprocessor import ClipPreprocessor
from ipa.request.picture_options import CENTER_CROP, Fit
from ipa.request.pictures import Picture
from ipa.request.profiles import PREPARED

from .comfyui_pixels import comfyui_bytes, comfyui_square
from .fit import PREPARED_FITS, centre_crop, fitted, prepared, sharpened
from .pictures import check_pixels, to_rgb

BYTES = "bytes"


def clip_pixels(
    pictures: Sequence[Picture],
    preprocessing: Mapping[str, Any],
    fit: Fit = CENTER_CROP,
    sharpen: float = 0.0,
    resize: str = BYTES,
) -> Floats:
    """Normalised pixels (N, 3, S, S) for a CLIP vision tower.

    Byte-exact to transformers' CLIPImageProcessorPil for PIL images and uint8 arrays. Arrays in
    [0, 1] are first rounded to 8 bits, where transformers would truncate.

    Args:
        pictures: One or more pictures of any sizes.
        preprocessing: What preprocessor_config.json holds; see `default_preprocessing`.
        fit: How a picture becomes square; see `ipa.request.picture_options`.
        sharpen: How much to sharpen what the encoder sees, from 0 to 1.
        resize: "bytes", or "floats" as in ComfyUI (`comfyui_pixels`), which takes the encoder's
            size, mean and deviation from `preprocessing`, and nothing else; there arrays in [0, 1]
            are not rounded before. "prepared floats" makes what is padded, cut at an edge or
            sharpened beforehand, see `fit.prepared`.

    Raises:
        CheckpointError: The configuration asks for something that is not implemented.
        RequestError: A picture cannot be used.
    """
    recipe = ClipPreprocessor.from_config(preprocessing)
    if not pictures:
        raise RequestError("at least one picture is needed", found="none")
    seen = [_seen(picture, fit, recipe, sharpen, resize) for picture in pictures]
    scaled = recipe if resize == BYTES else replace(recipe, scale=1 / 255)
    return np.stack([_normalised(pixels, scaled) for pixels in seen])


def encoder_views(
    pictures: Sequence[Picture],
    preprocessing: Mapping[str, Any],
    fit: Fit = CENTER_CROP,
    sharpen: float = 0.0,
    resize: str = BYTES,
) -> list[Image.Image]:
    """What the encoder sees of each picture, as a picture: `clip_pixels` before it normalises."""
    recipe = ClipPreprocessor.from_config(preprocessing)
    seen = [_seen(picture, fit, recipe, sharpen, resize) for picture in pictures]
    return [Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))) for pixels in seen]


def _square(image: Image.Image, fit: Fit, recipe: ClipPreprocessor) -> Bytes:
    """A picture fitted, resized and cropped in uint8: (3, S, S)."""
    image = fitted(image, fit, recipe)
    if recipe.resizes:
        width, height = recipe.resized(image.width, image.height)
        check_pixels(
            width,
            height,
            f"a picture of {image.width} × {image.height} resized for the image encoder",
            remedy="its sides differ too much: crop it nearer to a square",
        )
        image = image.resize((width, height), resample=recipe.resample)
    pixels = np.asarray(image).transpose(2, 0, 1)
    if recipe.crop is not None:
        pixels = centre_crop(pixels, *recipe.crop)
    if pixels.shape[1:] != recipe.output:
        raise RequestError(
            "a picture does not have the size that the image encoder takes",
            found=f"{pixels.shape[2]} × {pixels.shape[1]}, needed {recipe.output[1]} × "
            f"{recipe.output[0]}; this encoder's preprocessing does not resize",
        )
    return pixels


def _float_square(picture: Picture, fit: Fit, recipe: ClipPreprocessor) -> Bytes:
    """ComfyUI's square, of a picture in 8 bits, or of an array that was never rounded to them.

    Half precision is: it is not much finer, and numbers that were 8 bits fall below them.
    """
    image = to_rgb(picture)
    if (
        fit != CENTER_CROP
        or not isinstance(picture, np.ndarray)
        or not np.issubdtype(picture.dtype, np.floating)
        or picture.dtype == np.float16
    ):
        return comfyui_square(image, fit, recipe)
    values = np.broadcast_to(np.atleast_3d(picture), (image.height, image.width, 3))
    return comfyui_bytes(values.transpose(2, 0, 1).astype(np.float32), recipe)


def _seen(
    picture: Picture, fit: Fit, recipe: ClipPreprocessor, sharpen: float, resize: str
) -> Bytes:
    """A picture as the encoder sees it before it is normalised, (3, S, S)."""
    if resize == BYTES:
        pixels = _square(to_rgb(picture), fit, recipe)
    elif resize == PREPARED and fit != "squash" and (sharpen or fit in PREPARED_FITS):
        image = to_rgb(picture)
        if fit == "pad":
            check_pixels(*(max(image.size),) * 2, "a picture padded to a square")
        pixels = np.asarray(prepared(image, fit, recipe)).transpose(2, 0, 1)
    else:
        pixels = _float_square(picture, fit, recipe)
    return sharpened(pixels, sharpen) if sharpen else pixels


def _normalised(pixels: Bytes, recipe: ClipPreprocessor) -> Floats:
    """Pixels scaled in float64, normalised in float32."""
    values = pixels.astype(np.float32)
    if recipe.scale is not None:
        values = (pixels.astype(np.float64) * recipe.scale).astype(np.float32)
    if recipe.mean is not None and recipe.std is not None:
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (recipe.mean, recipe.std))
        values = (values - mean) / std
    return values
