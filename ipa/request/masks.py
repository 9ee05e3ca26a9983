"""Masks of image prompts: where in the picture they act, as numbers from 0 to 1."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.errors import RequestError

from .pictures import DECODE_ERRORS, array_values, deep_values, eight_bits, sha256

Mask: TypeAlias = "Image.Image | npt.NDArray[Any]"
"""A PIL picture, or an array (H, W): bool, uint8, uint16, or float in [0, 1]. White (1) is on."""

MaskValues: TypeAlias = npt.NDArray[np.float32]
"""The values of a mask: (H, W) in [0, 1], read-only."""

FITS = ("stretch", "crop")
"""The ways to fit a mask of another aspect than the picture's: see `ImagePrompt.mask_fit`."""

_NEEDED = "a mask is a PIL picture, or an array (H, W): bool, uint8, uint16, or float in [0, 1]"


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
    values = array_values(mask, where)
    values.flags.writeable = False
    return values


def describe_mask(mask: Any) -> dict[str, Any] | None:
    """A mask's size in pixels, and the hash of its float32 values in [0, 1], row by row."""
    if mask is None:
        return None
    return {"width": mask.shape[1], "height": mask.shape[0], "sha256": sha256(mask)}


def _luminance(picture: Image.Image, where: str) -> npt.NDArray[Any]:
    """A mask's grey values; one that is partly transparent could mean either, and is refused."""
    image = eight_bits(picture, where)
    try:
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            if np.asarray(image)[..., 3].min(initial=255) < 255:
                raise RequestError(
                    f"{where} is partly transparent: is the mask its colours or its transparency?",
                    found=f"mode {picture.mode}",
                    remedy='pass picture.getchannel("A"), or picture.convert("L")',
                )
        deep = deep_values(picture, where)
        if deep is not None:
            return deep
        if image.mode not in {"1", "L"}:
            image = image.convert("RGB").convert("L")
        return np.asarray(image)
    except DECODE_ERRORS as error:
        raise RequestError(
            f"{where} cannot be converted to grey", found=f"mode {picture.mode}: {error}"
        ) from error
