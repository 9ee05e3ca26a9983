"""Pictures on their way in and out: files, PIL images and arrays; CLIP's pixels; the VAE's pixels.

Sources: transformers' `CLIPImageProcessorPil` (image_processing_backends.py, image_transforms.py)
and diffusers' `VaeImageProcessor` (image_processor.py); the arithmetic and its dtypes are theirs.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ipa.arrays import Floats
from ipa.checks import checked
from ipa.errors import NumericalError, RequestError, shown
from ipa.request.pictures import DECODE_ERRORS, Picture, eight_bits
from ipa.request.request import MAX_SIDE

MAX_PIXELS = 64 << 20
"""Most pixels of a picture that is opened, or made by a resize: 192 MiB of RGB."""


# Decoders in C that need no other program; PIL's list has one that runs Ghostscript.
_FORMATS = frozenset(
    {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"}
)


@checked
def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open a picture file: its first frame, upright and in 8 bits (`ipa.request.pictures`).

    Raises:
        RequestError: It is missing, damaged or no picture, or has too many pixels, which its header
            tells before anything is decoded.
    """
    where = Path(path)
    if not where.is_file():
        found = "a folder" if where.is_dir() else "no such file"
        raise RequestError(f"picture {where} cannot be read", found=found, remedy="check the path")
    return _opened(where, f"picture {where}")


def open_bytes(
    file: bytes,
    what: str = "the picture",
    *,
    formats: Collection[str] = _FORMATS,
    most_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Open the bytes of a picture's file as `open_image` opens a file.

    Args:
        file: The bytes.
        what: What to call it in messages.
        formats: Those of PIL that may be decoded, of those that ever are.
        most_pixels: The pixels that its header may tell.
    """
    return _opened(io.BytesIO(file), what, formats, most_pixels)


def _opened(
    source: Path | io.BytesIO,
    what: str,
    formats: Collection[str] = _FORMATS,
    most_pixels: int = MAX_PIXELS,
) -> Image.Image:
    Image.init()
    try:
        with Image.open(source, formats=tuple(_FORMATS & {*formats} & Image.OPEN.keys())) as image:
            check_pixels(image.width, image.height, what, most=most_pixels)
            image.load()
            return eight_bits(image.copy(), what)
    except UnidentifiedImageError as error:
        raise RequestError(
            f"{what} is not one that can be read",
            remedy=f"supported formats: {', '.join(sorted(formats))}",
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(
            f"{what} is too large",
            found=str(error),
            remedy=f"shrink it below {most_pixels} pixels",
        ) from error
    except DECODE_ERRORS as error:
        raise RequestError(
            f"{what} is damaged",
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


def check_pixels(
    width: int, height: int, what: str, remedy: str = "shrink it", *, most: int = MAX_PIXELS
) -> None:
    """Raise RequestError, before anything is made, for more pixels than `most`."""
    if width * height > most:
        raise RequestError(
            f"{what} is too large",
            found=f"{width} × {height} pixels; the limit is {most}",
            remedy=remedy,
        )
