"""Masks of image prompts: where in the picture they act, as numbers from 0 to 1."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from .decoding import DECODE_ERRORS
from .errors import RequestError

Mask: TypeAlias = "Image.Image | npt.NDArray[Any]"
"""A PIL picture, or an array (H, W): bool, uint8, or float in [0, 1]. White (1) is on."""

MaskValues: TypeAlias = npt.NDArray[np.float32]
"""(H, W) in [0, 1], read-only."""

FITS = ("stretch", "crop")
"""What may be done with a mask of another aspect than the picture's: see `ImagePrompt.mask_fit`."""

_NEEDED = "a mask is a PIL picture, or an array (H, W): bool, uint8, or float in [0, 1]"
_WHITE = {np.dtype(np.bool_): 1.0, np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


def mask_values(mask: object, where: str) -> MaskValues:
    """A mask of any kind as its values; a copy, which nobody else can change.

    Colours count by their luminance, as in diffusers' IPAdapterMaskProcessor; soft edges stay.

    Args:
        mask: See `Mask`.
        where: What to call it in messages.

    Raises:
        RequestError: It is of another kind or rank, empty, not finite, or outside 0 to 1.
    """
    if isinstance(mask, Image.Image):
        mask = _luminance(mask, where)
    if not isinstance(mask, np.ndarray):
        raise RequestError(
            f"{where} cannot be used", found=type(mask).__name__, remedy=f"{_NEEDED}; or a list"
        )
    if mask.ndim != 2 or 0 in mask.shape:
        found = f"an array of shape {mask.shape}"
        raise RequestError(f"{where} must be (H, W), not empty", found=found, remedy=_NEEDED)
    if mask.dtype in _WHITE:
        values = mask.astype(np.float32) / np.float32(_WHITE[mask.dtype])
    elif np.issubdtype(mask.dtype, np.floating):
        values = _checked(mask, where).astype(np.float32)
    else:
        raise RequestError(f"{where} has numbers of no mask", found=str(mask.dtype), remedy=_NEEDED)
    values.flags.writeable = False
    return values


def _checked(mask: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    if not np.isfinite(mask).all():
        raise RequestError(f"{where} holds NaN or infinity", remedy=_NEEDED)
    low, high = float(mask.min()), float(mask.max())
    if low < 0.0 or high > 1.0:
        raise RequestError(
            f"{where} must lie in [0, 1]",
            found=f"values from {low:g} to {high:g}",
            remedy="divide by 255, or pass uint8",
        )
    return mask


def _luminance(picture: Image.Image, where: str) -> npt.NDArray[Any]:
    """Grey values; a picture that is partly transparent could mean either, so it is refused."""
    try:
        if "A" in picture.getbands() or picture.info.get("transparency") is not None:
            picture = picture.convert("RGBA")
            if np.asarray(picture)[..., 3].min(initial=255) < 255:
                raise RequestError(
                    f"{where} is partly transparent: is the mask its colours or its transparency?",
                    found=f"mode {picture.mode}",
                    remedy='pass picture.getchannel("A"), or picture.convert("L")',
                )
        if picture.mode.startswith("I;16"):
            return np.asarray(picture).astype(np.uint16)
        return np.asarray(picture if picture.mode == "F" else picture.convert("L"))
    except DECODE_ERRORS as error:
        raise RequestError(
            f"{where} cannot be converted to grey", found=f"mode {picture.mode}: {error}"
        ) from error
