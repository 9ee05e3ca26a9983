"""The fit of a picture in the image encoder's square, and sharpening.

Sources: refiners squashes (image_prompt.py), ComfyUI_IPAdapter_plus crops at an edge, pads with
black and sharpens (PrepImageForClipVision; FidelityFX CAS in utils.py). Where it does so, before
the encoder's own resize, is followed by `prepared`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.errors import RequestError
from ipa.model.preprocessor import ClipPreprocessor
from ipa.request.picture_options import CENTER_CROP, TILE, Fit

# Where the square that is kept lies along the axis that is cut: 0 is left or top.
_ANCHORS = {"left": (0.0, 0.5), "right": (1.0, 0.5), "top": (0.5, 0.0), "bottom": (0.5, 1.0)}


PREPARED_FITS = ("pad", *_ANCHORS)
"""The fits that ComfyUI knows only as a preparation of the picture."""


def fitted(image: Image.Image, fit: Fit, recipe: ClipPreprocessor) -> Image.Image:
    """A picture in a shape from which the recipe's own resize and crop give this fit.

    Args:
        image: RGB; or of mode F, a mask on one: then it is white where "pad" puts black.
        fit: See `ipa.request.picture_options`.
        recipe: The encoder's own steps.

    Raises:
        RequestError: The fit is "tile", which makes several pictures.
    """
    if fit == TILE:
        raise RequestError(
            "tiles are prompts of their own, each with a mask: they are no one picture",
            found=f"fit={TILE!r}",
            remedy=f"pass the picture itself to a call, as ImagePrompt(picture, fit={TILE!r})",
        )
    if not isinstance(fit, str):
        return image.crop(_pixels(fit, image.width, image.height))
    if fit in _ANCHORS:
        return _square(image, *_ANCHORS[fit])
    if fit == "squash":
        return image.resize(_target(recipe), resample=recipe.resample)
    if fit == "pad":
        return _padded(image, recipe)
    return image


def prepared(image: Image.Image, fit: Fit, recipe: ClipPreprocessor) -> Image.Image:
    """An RGB picture in the encoder's size, as ComfyUI_IPAdapter_plus prepares it beforehand.

    The square is cut out, or filled up with black, in the picture's own pixels: an odd pixel of
    black is left out, and what is then no square is squashed. Lanczos' filter makes its size.
    """
    if fit == "pad":
        # Beside its middle, as much on both sides.
        wide, tall = ((max(image.size) - side) // 2 for side in image.size)
        image = _on_black(image, image.width + 2 * wide, image.height + 2 * tall)
    else:
        if not isinstance(fit, str):
            image = image.crop(_pixels(fit, image.width, image.height))
        image = _square(image, *_ANCHORS.get(fit if isinstance(fit, str) else "", (0.5, 0.5)))
    height, width = recipe.output
    return image.resize((width, height), resample=Image.Resampling.LANCZOS)


def squared(image: Image.Image, fit: Fit) -> Image.Image:
    """The square of a picture that a fit shows, in the picture's own pixels; squashed, all of it.

    As `fitted`, but for the size: to be cut into parts, each of which becomes the encoder's square.
    """
    if fit == "squash":
        return image
    if fit == "pad":
        side = max(image.size)
        return _on_black(image, side, side)
    if not isinstance(fit, str):
        image = image.crop(_pixels(fit, image.width, image.height))
    return _square(image, *_ANCHORS.get(fit if isinstance(fit, str) else "", (0.5, 0.5)))


def kept(width: int, height: int, fit: Fit, recipe: ClipPreprocessor) -> float:
    """The share of a picture's area that the encoder sees; for a box, of the box."""
    if not isinstance(fit, str):
        left, top, right, bottom = _pixels(fit, width, height)
        width, height = right - left, bottom - top
    elif fit != CENTER_CROP:
        return 1.0  # all of it, or what was asked for
    if width == height or recipe.crop is None:
        return 1.0
    wide, tall = recipe.resized(width, height) if recipe.resizes else (width, height)
    return min(1.0, recipe.crop[0] / tall) * min(1.0, recipe.crop[1] / wide)


def sharpened(pixels: npt.NDArray[np.uint8], amount: float) -> npt.NDArray[np.uint8]:
    """Sharpen (3, H, W), adaptively to contrast: strong in flat places, none at hard edges.

    AMD's FidelityFX CAS with nine neighbours. Outside of the picture there is black, as in ComfyUI,
    so that its outermost pixels stay.
    """
    result = sharpened_floats(pixels / np.float64(255.0), amount)
    return np.asarray(np.round(result * 255.0), dtype=np.uint8)


def sharpened_floats(
    values: npt.NDArray[np.floating[Any]], amount: float
) -> npt.NDArray[np.float64]:
    """Sharpen values in [0, 1] as `sharpened` does, without rounding."""
    unit = np.pad(values.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    height, width = values.shape[1:]
    near = {
        (y, x): unit[:, 1 + y : 1 + y + height, 1 + x : 1 + x + width]
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    }
    cross = np.stack([array for place, array in near.items() if 0 in place])
    corners = np.stack([array for place, array in near.items() if 0 not in place])
    least = cross.min(axis=0) + corners.min(axis=0)
    most = cross.max(axis=0) + corners.max(axis=0)
    # Where all is black, there is nothing to weigh.
    room = np.sqrt(np.minimum(least, 2.0 - most) / np.where(most == 0.0, 1.0, most))
    weight = -room * (amount * (1 / 5 - 1 / 8) + 1 / 8)
    sides = cross.sum(axis=0) - near[0, 0]
    result = (sides * weight + near[0, 0]) / (1.0 + 4.0 * weight)
    return np.asarray(np.clip(result, 0.0, 1.0))


def _pixels(box: tuple[float, ...], width: int, height: int) -> tuple[int, int, int, int]:
    """A box in whole pixels, rounded outwards."""
    left, top, right, bottom = box
    # A number that is whole but for rounding is whole.
    x0, y0 = (int(np.floor(round(v, 6))) for v in (left * width, top * height))
    x1, y1 = (int(np.ceil(round(v, 6))) for v in (right * width, bottom * height))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _square(image: Image.Image, across: float, down: float) -> Image.Image:
    side = min(image.size)
    x, y = int((image.width - side) * across), int((image.height - side) * down)
    return image.crop((x, y, x + side, y + side))


def _target(recipe: ClipPreprocessor) -> tuple[int, int]:
    """The size (width, height) that the recipe's own resize leaves as it is."""
    height, width = recipe.output
    return recipe.resized(*(recipe.shortest_edge,) * 2) if recipe.shortest_edge else (width, height)


def _padded(image: Image.Image, recipe: ClipPreprocessor) -> Image.Image:
    width, height = _target(recipe)
    ratio = min(width / image.width, height / image.height)
    inner: Any = tuple(max(1, round(side * ratio)) for side in image.size)
    return _on_black(image.resize(inner, resample=recipe.resample), width, height)


def _on_black(image: Image.Image, width: int, height: int) -> Image.Image:
    canvas = Image.new(image.mode, (width, height), 1.0 if image.mode == "F" else 0)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def centre_crop(
    pixels: npt.NDArray[Any], height: int, width: int, around: float = 0
) -> npt.NDArray[Any]:
    """The middle of (C, H, W); where it is smaller, `around` beside it (`center_crop`)."""
    tall, wide = max(height, pixels.shape[1]), max(width, pixels.shape[2])
    # transformers rounds the padding up and, without padding, the offset down.
    above, left = -(-(tall - pixels.shape[1]) // 2), -(-(wide - pixels.shape[2]) // 2)
    top = (pixels.shape[1] - height) // 2 + above
    side = (pixels.shape[2] - width) // 2 + left
    canvas = pixels
    if (tall, wide) != pixels.shape[1:]:
        canvas = np.full((len(pixels), tall, wide), around, pixels.dtype)
        canvas[:, above : above + pixels.shape[1], left : left + pixels.shape[2]] = pixels
    return canvas[:, top : top + height, side : side + width]
