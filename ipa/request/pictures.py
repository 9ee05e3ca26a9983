"""Pictures as people give them, made 8-bit and upright: the one entry for all of them."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ipa.arrays import Bytes, Floats
from ipa.errors import RequestError

from .embeds import ImageEmbeds

DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""The exceptions of PIL's decoders, documented and found by fuzzing."""


_ORIENTATION, _TURNS = 0x0112, range(2, 9)  # EXIF's tag; 1 is upright


_DIVIDED = {"La": "LA", "RGBa": "RGBA"}


_NEEDED = "a picture must be a PIL image or an array (H, W) or (H, W, 3)"


_WHITE = {np.dtype(np.bool_): 1.0, np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


def eight_bits(picture: object, what: str = "a picture") -> Image.Image:
    """A picture of any kind, upright and in 8 bits a channel; itself if it is so already.

    Args:
        picture: A PIL image of any mode; or an array (H, W) or (H, W, 3): bool, uint8, uint16, or
            float in [0, 1].
        what: What to call it in messages.

    Raises:
        RequestError: It is no picture, empty, damaged, or its numbers are no brightness.
    """
    if isinstance(picture, np.ndarray):
        return Image.fromarray(_array_bytes(picture))
    if not isinstance(picture, Image.Image):
        raise RequestError(
            _NEEDED,
            found=type(picture).__name__,
            remedy="open files with ipa.open_image",
        )
    if picture.width == 0 or picture.height == 0:
        raise RequestError(f"{what} has no pixels", found=f"{picture.width} × {picture.height}")
    try:
        image = _upright(picture)
        if image.mode in _DIVIDED:
            return image.convert(_DIVIDED[image.mode])
        return _shallow(image, what)
    except DECODE_ERRORS as error:
        raise RequestError(
            f"{what} cannot be read",
            found=f"mode {picture.mode}: {str(error) or type(error).__name__}",
            remedy="save it anew as PNG",
        ) from error


def deep_values(picture: Image.Image, what: str) -> Floats | None:
    """The values of grey in more than 8 bits, upright, in [0, 1]; None of any other picture.

    Raises:
        RequestError: Its numbers are no brightness.
    """
    if not _is_deep(picture.mode):
        return None
    numbers = np.asarray(_upright(picture))
    return (numbers / _white(numbers, picture.mode, what)).astype(np.float32)


def array_values(array: npt.NDArray[Any], what: str) -> Floats:
    """An array of any shape in [0, 1]: bool, uint8, uint16, or float that lies there already.

    Raises:
        RequestError: It has other numbers.
    """
    if array.dtype in _WHITE:
        return array.astype(np.float32) / np.float32(_WHITE[array.dtype])
    if not np.issubdtype(array.dtype, np.floating):
        raise RequestError(
            f"{what} must be bool, uint8, uint16, or float in [0, 1]",
            found=str(array.dtype),
            remedy="if 255 is white in it, pass array.astype(np.uint8)",
        )
    if not np.isfinite(array).all():
        raise RequestError(f"{what} holds NaN or infinity")
    if array.min() < 0.0 or array.max() > 1.0:
        raise RequestError(
            f"{what} must lie in [0, 1]",
            found=f"values from {array.min():g} to {array.max():g}",
            remedy="divide by 255, or pass uint8",
        )
    return array.astype(np.float32)


def picture_sha256(picture: object) -> str:
    """The hash of a picture's pixels in 8 bits, row by row: that of its file once opened."""
    return sha256(np.asarray(eight_bits(picture)))


def sha256(array: npt.ArrayLike) -> str:
    """The hash of an array's numbers, row by row."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def check_shape(array: npt.NDArray[Any]) -> None:
    """Raise RequestError for an array of another shape than a picture's."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        raise RequestError(
            "an array picture must have the shape (H, W) or (H, W, 3)", found=f"{array.shape}"
        )


def _array_bytes(array: npt.NDArray[Any]) -> Bytes:
    """An array (H, W) or (H, W, 3) in 8 bits."""
    check_shape(array)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    values = array_values(array, "an array picture")
    return np.round(values * np.float32(255.0)).astype(np.uint8)


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()  # Pillow turns TIFFs by itself
    return ImageOps.exif_transpose(picture) if _is_turned(picture) else picture


def _is_turned(picture: Image.Image) -> bool:
    """Whether EXIF turns a picture; damaged EXIF does not."""
    try:
        return picture.getexif().get(_ORIENTATION) in _TURNS
    except DECODE_ERRORS:
        return False


def _is_deep(mode: str) -> bool:
    return mode in {"I", "F"} or mode.startswith("I;16")


def _shallow(image: Image.Image, what: str) -> Image.Image:
    """A deep grey picture in 8 bits; a transparent colour becomes alpha."""
    if not _is_deep(image.mode):
        return image
    numbers = np.asarray(image)
    white = _white(numbers, image.mode, what)
    if white == 255.0:
        grey = numbers.astype(np.uint8)
    else:
        grey = np.round(numbers.astype(np.float64) * (255.0 / white)).astype(np.uint8)
    made = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if clear is not None:
        alpha = np.where(numbers == clear, 0, 255).astype(np.uint8)
        made = Image.merge("LA", (made, Image.fromarray(alpha)))
    made.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return made


def _white(numbers: npt.NDArray[Any], mode: str, what: str) -> float:
    """The white of a deep picture: told by its mode, or by its largest number."""
    if mode.startswith("I;16"):
        return 65535.0
    low, high = float(numbers.min()), float(numbers.max())
    if mode == "F":
        if not 0.0 <= low <= high <= 255.0:  # false for NaN too
            raise RequestError(
                f"{what} of floats must lie in [0, 1] or in [0, 255]",
                found=f"values from {low:g} to {high:g}",
                remedy="scale it: which number is white cannot be told",
            )
        return 1.0 if high <= 1.0 else 255.0
    if low < 0 or high > 65535 or high == 1:
        raise RequestError(
            f"{what} of whole numbers must lie in 0 to 255 or in 0 to 65535, and not in 0 to 1",
            found=f"values from {low:g} to {high:g}",
            remedy="scale it: which number is white cannot be told",
        )
    return 255.0 if high <= 255 else 65535.0


Picture: TypeAlias = "Image.Image | npt.NDArray[Any]"
"""A PIL image of any mode, or an array (H, W, 3) or (H, W): bool, uint8, uint16, or float in
[0, 1]; `ipa.request.pictures` says what each means."""


def pictures_of(given: Picture | Sequence[Picture] | ImageEmbeds | None) -> tuple[Picture, ...]:
    """One picture or several as a tuple; embeds and None have none."""
    if given is None or isinstance(given, ImageEmbeds):
        return ()
    return (given,) if isinstance(given, (Image.Image, np.ndarray)) else tuple(given)
