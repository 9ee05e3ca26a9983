"""How a picture that is not square becomes what the image encoder sees: names, checked."""

from __future__ import annotations

import difflib
from typing import TypeAlias

from .errors import RequestError, shown
from .weights import is_finite

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom, in fractions of the picture's width and height."""

Fit: TypeAlias = "str | Box"
"""A name of FITS, or a box of the picture."""

CENTER_CROP = "center-crop"

TILE = "tile"

FITS = (CENTER_CROP, "squash", "pad", "top", "bottom", "left", "right", TILE)
"""The middle square; all of it, stretched; all of it, on black; the square at an edge; or several
squares, each a prompt of its own."""


def check_fit(fit: object) -> Fit:
    """A fit in plain values. Raises RequestError for an unknown name, or a box that is none."""
    if isinstance(fit, str):
        if fit in FITS:
            return fit
        near = difflib.get_close_matches(fit.replace("_", "-").replace("centre", "center"), FITS)
        raise RequestError(
            "there is no such fit",
            found=shown(fit),
            remedy=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(FITS)}, or a box",
        )
    if not isinstance(fit, (tuple, list)) or len(fit) != 4 or not all(map(is_finite, fit)):
        raise RequestError(
            "fit must be a name or a box of four numbers (left, top, right, bottom)",
            found=shown(fit),
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
    if not is_finite(amount) or not 0.0 <= float(amount) <= 1.0:
        raise RequestError("sharpen must be a number from 0 to 1", found=shown(amount))
    return float(amount)
