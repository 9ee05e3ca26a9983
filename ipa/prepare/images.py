"""Pictures on their way in and out: files, PIL images and arrays; CLIP's pixels; the VAE's pixels.

Sources: transformers' `CLIPImageProcessorPil` (image_processing_backends.py, image_transforms.py)
and diffusers' `VaeImageProcessor` (image_processor.py); the arithmetic and its dtypes are theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ipa.contract.checked import checked
from ipa.contract.decoding import DECODE_ERRORS
from ipa.contract.errors import NumericalError, RequestError, shown
from ipa.contract.fit import CENTER_CROP, Fit
from ipa.contract.image_prompt import Picture
from ipa.contract.pictures import eight_bits
from ipa.contract.request import MAX_SIDE

from .clip_recipe import ClipRecipe
from .comfyui_pixels import comfyui_bytes, comfyui_square
from .fit import PREPARED_FITS, fitted, prepared, sharpened
from .profiles import PREPARED

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BYTES = "bytes"

MAX_PIXELS = 64 << 20
"""Most pixels of a picture that is opened, or made by a resize: 192 MiB of RGB."""

# Decoders in C that need no other program; PIL's list has one that runs Ghostscript.
_FORMATS = frozenset(
    {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"}
)


@checked
def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open a picture file: its first frame, upright and in 8 bits (`ipa.contract.pictures`).

    Raises:
        RequestError: It is missing, damaged or no picture, or has too many pixels, which its header
            tells before anything is decoded.
    """
    where = Path(path)
    if not where.is_file():
        found = "a folder" if where.is_dir() else "no such file"
        raise RequestError(f"picture {where} cannot be read", found=found, remedy="check the path")
    Image.init()
    try:
        with Image.open(where, formats=tuple(_FORMATS & Image.OPEN.keys())) as image:
            check_pixels(image.width, image.height, f"picture {where}")
            image.load()
            return eight_bits(image.copy(), f"picture {where}")
    except UnidentifiedImageError as error:
        raise RequestError(
            f"{where} is not a picture that can be read",
            remedy=f"supported formats: {', '.join(sorted(_FORMATS))}",
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(
            f"picture {where} is too large",
            found=str(error),
            remedy=f"shrink it below {MAX_PIXELS} pixels",
        ) from error
    except DECODE_ERRORS as error:
        raise RequestError(
            f"picture {where} is damaged",
            found=str(error) or type(error).__name__,
            remedy="save or download it again",
        ) from error


def to_rgb(picture: Picture) -> Image.Image:
    """Any picture as 8-bit RGB, upright. Transparency lies on white, as in transformers."""
    image = eight_bits(picture)
    try:
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(opaque, image.convert("RGBA"))
        return image.convert("RGB")
    except DECODE_ERRORS as error:
        raise RequestError(
            "a picture cannot be converted to RGB",
            found=f"mode {image.mode}: {error}",
            remedy="convert it to RGB before",
        ) from error


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
        fit: How a picture becomes square; see `ipa.contract.fit`.
        sharpen: How much to sharpen what the encoder sees, from 0 to 1.
        resize: "bytes", or "floats" as in ComfyUI (`comfyui_pixels`), which takes the encoder's
            size, mean and deviation from `preprocessing`, and nothing else; there arrays in [0, 1]
            are not rounded before. "prepared floats" makes what is padded, cut at an edge or
            sharpened beforehand, see `fit.prepared`.

    Raises:
        CheckpointError: The configuration asks for something that is not implemented.
        RequestError: A picture cannot be used.
    """
    recipe = ClipRecipe.from_config(preprocessing)
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
    recipe = ClipRecipe.from_config(preprocessing)
    seen = [_seen(picture, fit, recipe, sharpen, resize) for picture in pictures]
    return [Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))) for pixels in seen]


def default_preprocessing(image_size: int) -> dict[str, Any]:
    """CLIP's own preprocessing, for encoders that come without preprocessor_config.json."""
    return {
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": int(Image.Resampling.BICUBIC),
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }


def vae_pixels(picture: Picture, width: int, height: int) -> Floats:
    """A picture as the VAE's encoder takes it: (1, 3, height, width) in [-1, 1], Lanczos resize.

    As diffusers' VaeImageProcessor does with PIL images, except that pictures are made RGB before
    the resize and not after it: the same for RGB and grey ones.
    """
    for name, side in (("width", width), ("height", height)):
        if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= MAX_SIDE:
            raise RequestError(f"{name} must be an integer from 1 to {MAX_SIDE}", found=shown(side))
    resized = to_rgb(picture).resize((width, height), resample=Image.Resampling.LANCZOS)
    unit = np.asarray(resized).astype(np.float32) / np.float32(255.0)
    return np.ascontiguousarray((np.float32(2.0) * unit - np.float32(1.0)).transpose(2, 0, 1)[None])


def to_pil(images: npt.NDArray[np.float32]) -> list[Image.Image]:
    """Pictures (N, H, W, 3) in [0, 1] as PIL images, rounded half to even (numpy_to_pil)."""
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:]:
        raise RequestError("pictures must have the shape (N, H, W, 3)", found=str(images.shape))
    if not np.isfinite(images).all():
        raise NumericalError("a decoded picture holds NaN or infinity")
    if images.size and (images.min() < 0.0 or images.max() > 1.0):
        raise RequestError(
            "pictures must lie in [0, 1]", found=f"values from {images.min()} to {images.max()}"
        )
    return [Image.fromarray(image) for image in (images * 255).round().astype(np.uint8)]


def check_pixels(width: int, height: int, what: str, remedy: str = "shrink it") -> None:
    """Raise RequestError, before anything is made, for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise RequestError(
            f"{what} is too large",
            found=f"{width} × {height} pixels; the limit is {MAX_PIXELS}",
            remedy=remedy,
        )


def _square(image: Image.Image, fit: Fit, recipe: ClipRecipe) -> Bytes:
    """Fit, resize and crop in uint8: (3, S, S)."""
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


def _float_square(picture: Picture, fit: Fit, recipe: ClipRecipe) -> Bytes:
    """ComfyUI's, of a picture in 8 bits, or of an array that was never rounded to them.

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


def _seen(picture: Picture, fit: Fit, recipe: ClipRecipe, sharpen: float, resize: str) -> Bytes:
    """What the encoder sees of a picture before it is normalised, (3, S, S)."""
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


def _normalised(pixels: Bytes, recipe: ClipRecipe) -> Floats:
    """Scaled in float64, normalised in float32."""
    values = pixels.astype(np.float32)
    if recipe.scale is not None:
        values = (pixels.astype(np.float64) * recipe.scale).astype(np.float32)
    if recipe.mean is not None and recipe.std is not None:
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (recipe.mean, recipe.std))
        values = (values - mean) / std
    return values


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
