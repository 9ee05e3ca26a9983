"""The square that ComfyUI's CLIP sees of a picture: resized in floats, rounded to 8 bits once.

Source: ComfyUI (clip_vision.py, clip_preprocess) over torch's bicubic interpolation with
antialias=True (a = -0.5, the kernel widened where it shrinks, half-pixel centres). PIL's filter is
the same, but PIL rounds to 8 bits, and cuts to them, after each of its two passes, and ComfyUI
after both: of square noise that is shrunk by 1.5 to 3, 14 % of the values are others, all but 3 in
10,000 by 1 of 255. Where a longer side is rounded up here and cut off there, all of them are.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ipa.arrays import Bytes, Doubles, Floats
from ipa.model.preprocessor import ClipPreprocessor
from ipa.request.picture_options import Fit

from .fit import fitted

Tap = tuple[int, Doubles]
"""A place's taps: the first index, and the weights from there on."""


_A = -0.5  # torch's cubic kernel with antialias=True


_REACH = 2.0  # pixels from its centre


def comfyui_square(image: Image.Image, fit: Fit, recipe: ClipPreprocessor) -> Bytes:
    """An RGB picture as ComfyUI's square (3, S, S); of the recipe only the size counts.

    Fits are those of `fit.fitted`, but for "squash", which is ComfyUI's crop="none": both sides are
    resized to S.
    """
    squashes = fit == "squash"
    pixels = np.asarray(image if squashes else fitted(image, fit, recipe)).transpose(2, 0, 1)
    return comfyui_bytes(pixels.astype(np.float32) / np.float32(255.0), recipe, squashes=squashes)


def comfyui_bytes(unit: Floats, recipe: ClipPreprocessor, *, squashes: bool = False) -> Bytes:
    """A picture (3, H, W) in [0, 1] as 8 bits (3, S, S): resized, its middle cut out, rounded."""
    height, width = recipe.output
    rows, columns = unit.shape[1:]
    if (rows, columns) == (height, width):
        return _rounded(unit)
    scale = width / min(rows, columns)
    tall, wide = (height, width) if squashes else (round(scale * rows), round(scale * columns))
    across = _resized(unit, _taps(columns, wide, (wide - width) // 2, width))
    down = _resized(across.swapaxes(1, 2), _taps(rows, tall, (tall - height) // 2, height))
    return _rounded(down.swapaxes(1, 2))


def _rounded(unit: Floats) -> Bytes:
    values = np.clip(np.float32(255.0) * unit, 0.0, 255.0)
    return np.ascontiguousarray(np.round(values), dtype=np.uint8)


def middle_corner(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The corner (left, top) of torchvision's CenterCrop; half a pixel goes to the even side."""
    return round((size[0] - width) / 2), round((size[1] - height) / 2)


def resized_floats(values: Floats, height: int, width: int) -> Floats:
    """Resize (C, H, W) as torch's `interpolate(mode="bicubic", antialias=True)`, unrounded."""
    rows, columns = values.shape[1:]
    if columns != width:
        values = _resized(values, _taps(columns, width, 0, width))
    if rows != height:
        down = _resized(values.swapaxes(1, 2), _taps(rows, height, 0, height))
        values = np.ascontiguousarray(down.swapaxes(1, 2))
    return values


def _resized(values: Floats, taps: list[Tap]) -> Floats:
    """Resize (C, L, size) to (C, L, places), along the last axis."""
    places = [values[..., first : first + len(w)].astype(np.float64) @ w for first, w in taps]
    return np.stack(places, axis=-1).astype(np.float32)


def _taps(size: int, target: int, first: int, count: int) -> list[Tap]:
    """The taps of `count` places from the `first` on, of an axis resized to `target`."""
    # Rounded to float32 where torch rounds: beside a hard edge, a bit of a place is worth more than
    # all rounding that follows.
    scale = np.float32(size) / np.float32(target)
    stretch = max(scale, np.float32(1.0))
    reach = float(np.float32(_REACH) * stretch)
    taps = []
    for place in range(first, first + count):
        centre = np.float32(float(scale) * (place + 0.5))
        low = max(0, int(float(centre) - reach + 0.5))
        high = min(size, int(float(centre) + reach + 0.5))
        away = (np.arange(low, high, dtype=np.float32) - centre).astype(np.float64) + 0.5
        weights = _cubic(away / float(stretch))
        taps.append((low, weights / weights.sum()))
    return taps


def _cubic(place: Doubles) -> Doubles:
    """The cubic kernel, 0 beyond two pixels."""
    x = np.abs(place)
    inner = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1.0
    outer = ((_A * x - 5.0 * _A) * x + 8.0 * _A) * x - 4.0 * _A
    return np.where(x < 1.0, inner, np.where(x < _REACH, outer, 0.0))
