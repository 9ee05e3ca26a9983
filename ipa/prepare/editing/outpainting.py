"""Larger canvases: a picture with room around it, or enlarged for inpainting."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ipa.arrays import Floats
from ipa.checks import is_finite
from ipa.errors import RequestError, shown
from ipa.prepare.images.pictures import check_pixels, to_rgb
from ipa.prepare.images.resample import resample
from ipa.request.editing import MAX_PADDING
from ipa.request.pictures import Picture


def outpaint(
    picture: Picture,
    *,
    left: int = 0,
    top: int = 0,
    right: int = 0,
    bottom: int = 0,
    overlap: int = 8,
) -> tuple[Image.Image, Image.Image]:
    """A picture on a larger canvas, and the mask of what is new: `image` and `mask_image`.

    The room is filled with the pixels at the edge, which only a strength below 1 can see. Controls
    and masks of image prompts lie over the larger canvas, as over any picture to start from.

    Args:
        picture: What is there.
        left: Pixels to add at that side. With those of the others and the picture's own they should
            make sides that the VAE's factor (8) divides, or they are rounded down.
        top: Likewise.
        right: Likewise.
        bottom: Likewise.
        overlap: Pixels of the picture itself to make anew at the sides that grow, for the seam.

    Returns:
        RGB, and a mask ("L") of the same size, white where it is new.

    Raises:
        RequestError: A number is none of pixels, nothing is added, or the canvas is too large.
    """
    sides = {"left": left, "top": top, "right": right, "bottom": bottom, "overlap": overlap}
    for name, value in sides.items():
        is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not is_integer or not 0 <= value <= MAX_PADDING:
            raise RequestError(
                f"{name} must be a number of pixels from 0 to {MAX_PADDING}", found=shown(value)
            )
    if not left + top + right + bottom:
        raise RequestError("outpaint adds nothing", remedy="name a side: right=128")
    plain = to_rgb(picture)
    width, height = plain.width + left + right, plain.height + top + bottom
    check_pixels(width, height, "the canvas around a picture")
    canvas = np.pad(np.asarray(plain), ((top, bottom), (left, right), (0, 0)), mode="edge")
    mask = np.full((height, width), 255, np.uint8)
    first = [side + (overlap if side else 0) for side in (top, left)]
    last = [
        total - side - (overlap if side else 0)
        for total, side in ((height, bottom), (width, right))
    ]
    mask[first[0] : max(first[0], last[0]), first[1] : max(first[1], last[1])] = 0
    return Image.fromarray(canvas), Image.fromarray(mask)


_MOST = 16.0


def enlarge(latents: Floats, factor: float) -> Floats:
    """Enlarge latents (N, C, h, w) to (N, C, round(h · factor), round(w · factor)).

    torch's bicubic interpolation. They go into a second call as `image`, with a strength about 0.6:
    at less, what interpolation blurs stays blurred.

    Raises:
        RequestError: They are no latents, or the factor is not above 0 and at most 16.
    """
    if not isinstance(latents, np.ndarray) or latents.ndim != 4 or 0 in latents.shape:
        raise RequestError(
            "latents have the shape (N, C, h, w)",
            found=str(getattr(latents, "shape", type(latents).__name__)),
            remedy='call with output_type="latent", and pass result.latents',
        )
    if not is_finite(factor) or not 0.0 < factor <= _MOST:
        raise RequestError(f"factor must be above 0, and at most {_MOST:g}", found=shown(factor))
    count, channels, *sides = latents.shape
    rows, columns = (max(1, round(side * factor)) for side in sides)
    planes = latents.reshape(-1, *sides)
    large = [resample(plane, rows, columns) for plane in planes]
    return np.stack(large).reshape(count, channels, rows, columns)
