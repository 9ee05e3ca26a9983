"""How a picture that is not square becomes what the image encoder sees: names, checked."""

from __future__ import annotations

import difflib
import math
from typing import TypeAlias

import numpy as np

from .errors import RequestError

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom, in fractions of the picture's width and height."""

Fit: TypeAlias = "str | Box"
"""A name of FITS, or a box of the picture."""

CENTER_CROP = "center-crop"

FITS = (CENTER_CROP, "squash", "pad", "top", "bottom", "left", "right")
"""The middle square; all of it, stretched; all of it, on black; or the square at an edge."""


def check_fit(fit: object) -> Fit:
    """A fit in plain values. Raises RequestError for an unknown name, or a box that is none."""
    if isinstance(fit, str):
        if fit in FITS:
            return fit
        near = difflib.get_close_matches(fit.replace("_", "-").replace("centre", "center"), FITS)
        raise RequestError(
            "there is no such fit",
            found=repr(fit),
            remedy=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(FITS)}, or a box",
        )
    if not isinstance(fit, (tuple, list)) or len(fit) != 4 or not all(map(_is_number, fit)):
        raise RequestError(
            "fit must be a name or a box of four numbers (left, top, right, bottom)",
            found=repr(fit)[:80],
            remedy=f"known: {', '.join(FITS)}",
        )
    left, top, right, bottom = (float(side) for side in fit)
    if not (0.0 <= left < right <= 1.0 and 0.0 <= top < bottom <= 1.0):
        raise RequestError(
            "a crop box must lie in 0 to 1 and have an inside",
            found=f"left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g}",
            remedy="fractions of the picture, left < right and top < bottom",
        )
    return left, top, right, bottom


def check_sharpen(amount: object) -> float:
    """An amount of sharpening. Raises RequestError unless it is from 0 to 1."""
    if not _is_number(amount) or not 0.0 <= float(amount) <= 1.0:  # type: ignore[arg-type]
        raise RequestError("sharpen must be a number from 0 to 1", found=repr(amount))
    return float(amount)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    good = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return good and math.isfinite(value)  # type: ignore[arg-type]
