"""Masks on the pictures that go into an image encoder.

Source: ComfyUI_IPAdapter_plus (utils.py, encode_image_masked): pixels that are normalised already
are multiplied by the mask, so that black shows the encoder its mean colour. What ComfyUI crops and
resizes to the encoder's square in one way here follows the picture's own fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ipa.arrays import Floats
from ipa.errors import RequestError
from ipa.model.preprocessor import ClipPreprocessor
from ipa.prepare.images.fit import centre_crop, fitted
from ipa.prepare.images.pictures import to_rgb
from ipa.request.image_prompt import ImagePrompt
from ipa.request.masks import MaskValues
from ipa.request.picture_options import CENTER_CROP, Fit


def mask_on(mask: Any, size: tuple[int, int]) -> Image.Image:
    """A mask (H, W) at a picture's (width, height), as a picture of mode F.

    Raises:
        RequestError: It has another aspect, by more than the rounding of a pixel.
    """
    values: MaskValues = mask
    rows, columns = values.shape
    width, height = size
    if abs(columns * height - rows * width) >= max(width, height):
        raise RequestError(
            "ImagePrompt.encoder_mask has another aspect than its picture",
            found=f"{columns} × {rows}, the picture is {width} × {height}",
            remedy="resize it to the picture's size",
        )
    image = Image.fromarray(values)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def seen_mask(mask: Image.Image, recipe: ClipPreprocessor, fit: Fit) -> Floats:
    """A picture's mask as the encoder's square, (S, S): resized and cropped as the picture is.

    What a fit adds around the picture is not masked.
    """
    image = fitted(mask, fit, recipe)
    if recipe.resizes:
        size = recipe.resized(image.width, image.height)
        image = image.resize(size, resample=recipe.resample)
    values = np.asarray(image, np.float32)[None]
    if recipe.crop is not None:
        values = centre_crop(values, *recipe.crop, around=1)
    return np.asarray(values[0].clip(0.0, 1.0))


def seen_masks(prompt: ImagePrompt, recipe: ClipPreprocessor) -> list[Floats | None]:
    """The mask of each picture of a prompt as the encoder's square; None for one without.

    Raises:
        RequestError: A mask has another aspect than its picture.
    """
    fit = prompt.fit or CENTER_CROP
    return [
        None if mask is None else seen_mask(mask, recipe, fit) for mask in picture_masks(prompt)
    ]


def picture_masks(prompt: ImagePrompt) -> list[Image.Image | None]:
    """The mask of each picture of a prompt, at the picture's size; None for one without."""
    given: Any = prompt.encoder_mask
    masks = given if isinstance(given, tuple) else (given,) * len(prompt.images)
    return [
        None if mask is None else mask_on(mask, to_rgb(picture).size)
        for picture, mask in zip(prompt.images, masks, strict=True)
    ]


def masked_pixels(pixels: Floats, masks: Sequence[Floats | None]) -> Floats:
    """Normalised pixels (N, 3, S, S) times a mask each; None leaves a picture as it is."""
    if all(mask is None for mask in masks):
        return pixels
    ones = np.ones(pixels.shape[2:], np.float32)
    return pixels * np.stack([ones if mask is None else mask for mask in masks])[:, None]


def masked_view(view: Image.Image, mask: Floats | None, recipe: ClipPreprocessor) -> Image.Image:
    """What the encoder sees, with its mean colour where a mask is black."""
    if mask is None:
        return view
    mean = np.array(recipe.mean or (0.0, 0.0, 0.0)) / (recipe.scale or 1.0)
    values = mean + (np.asarray(view) - mean) * mask[..., None]
    return Image.fromarray(np.round(values.clip(0.0, 255.0)).astype(np.uint8))
