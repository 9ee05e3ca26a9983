"""Start pictures: a picture, how far a run may move away from it, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.checks import is_finite
from ipa.errors import RequestError, shown

from .masks import Mask

Start: TypeAlias = "Image.Image | npt.NDArray[Any] | Sequence[Image.Image | npt.NDArray[Any]]"
"""A start: a picture, or a list with one for each that is made; or latents (N, C, h, w)."""

Masks: TypeAlias = "Mask | Sequence[Mask]"
"""A mask for all pictures, or a list with one for each that is made. White is made anew."""

Box: TypeAlias = tuple[int, int, int, int]
"""A box: left, top, right, bottom in pixels."""

MAX_BLUR = 1024.0  # pixels
MAX_PADDING = 8192  # pixels


@dataclass(frozen=True, slots=True)
class Crop:
    """A crop that a run works on: `size` is (width, height) of the whole picture."""

    size: tuple[int, int]
    box: Box


def is_latents(image: object) -> bool:
    """Whether a start is latents, (N, C, h, w), and not a picture."""
    return isinstance(image, np.ndarray) and image.ndim == 4


def sources(given: object) -> Sequence[Any]:
    """A start or masks as a sequence: the entries of a list, or a single one."""
    return given if isinstance(given, (list, tuple)) or is_latents(given) else [given]  # type: ignore[return-value]


def split_sources(name: str, given: Any, count: int, rows: int) -> list[Any]:
    """Split a start, or masks, for each of `count` prompts with `rows` pictures each.

    Raises:
        RequestError: A list has neither one entry nor one for every picture.
    """
    entries = sources(given)
    if given is None or len(entries) == 1:
        return [given] * count
    if len(entries) != count * rows:
        raise RequestError(
            f"{name} needs one entry, or one for every picture that is made",
            found=f"{len(entries)} entries for {count * rows} pictures",
            remedy="pass a single one for all, or a list of them in the order of the pictures",
        )
    return [entries[i * rows : (i + 1) * rows] for i in range(count)]


def check_editing(
    strength: object, padding_mask_crop: object, mask_blur: object, overlay: object
) -> None:
    """Raise RequestError unless these arguments of a request are numbers that can be used."""
    if not is_finite(strength) or not 0.0 <= strength <= 1.0:
        raise RequestError(
            "strength must be a number from 0 to 1",
            found=shown(strength),
            remedy="0.8 is usual; 1 keeps nothing but what noise lets through",
        )
    if padding_mask_crop is not None:
        is_integer = isinstance(padding_mask_crop, (int, np.integer))
        if not is_integer or isinstance(padding_mask_crop, bool):
            raise RequestError(
                "padding_mask_crop must be a number of pixels", found=shown(padding_mask_crop)
            )
        if not 0 <= padding_mask_crop <= MAX_PADDING:  # type: ignore[operator]
            raise RequestError(
                f"padding_mask_crop must be from 0 to {MAX_PADDING}", found=shown(padding_mask_crop)
            )
    if not is_finite(mask_blur) or not 0.0 <= mask_blur <= MAX_BLUR:
        raise RequestError(
            f"mask_blur must be a number of pixels from 0 to {MAX_BLUR:g}",
            found=shown(mask_blur),
        )
    if not isinstance(overlay, bool):
        raise RequestError("overlay must be True or False", found=shown(overlay))
