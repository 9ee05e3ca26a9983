"""Options of a picture for the image encoder: fit, enhancement, negative pictures."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from ipa.checks import is_finite, plain_number
from ipa.errors import RequestError, shown

from .embeds import ImageEmbeds

MOST_TILES = 16
"""The most tiles along one side of an enhanced picture: 256 encodings."""


NOISE = "noise"


NOISE_KINDS = ("fade", "dissolve", "gaussian", "shuffle")
"""The kinds of noise pictures."""


MOST_BLUR = 31  # pixels of a kernel's side


@dataclass(frozen=True, slots=True)
class NoiseChoice:
    """A picture of noise to steer away from: its kind, its strength, and the side of a blur."""

    kind: str = "fade"
    strength: float = 1.0
    blur: int = 0

    def __post_init__(self) -> None:
        if self.kind not in NOISE_KINDS:
            near = difflib.get_close_matches(str(self.kind), NOISE_KINDS, n=1)
            raise RequestError(
                "there is no such noise",
                found=shown(self.kind),
                remedy=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NOISE_KINDS)}",
            )
        if not is_finite(self.strength) or not 0.0 <= self.strength <= 1.0:
            raise RequestError("strength must be a number from 0 to 1", found=shown(self.strength))
        odd = _is_whole(self.blur) and self.blur % 2 == 1 and 1 <= self.blur <= MOST_BLUR
        if not odd and not (_is_whole(self.blur) and self.blur == 0):
            raise RequestError(
                f"blur must be 0, or an odd number of pixels up to {MOST_BLUR}",
                found=shown(self.blur),
            )


def parse_noise(text: str) -> NoiseChoice | None:
    """Parse "noise:KIND:STRENGTH:BLUR", its end left out at will; None for "noise" alone.

    Raises:
        RequestError: It is no such text.
    """
    head, *parts = text.split(":")
    if head != NOISE or len(parts) > 3:
        raise RequestError(
            f'ImagePrompt.negative must be a picture, pictures, embeds or "{NOISE}"',
            found=shown(text),
            remedy="open files with ipa.open_image; or write noise:KIND:STRENGTH",
        )
    if not parts:
        return None
    try:
        strength, blur = float(parts[1]) if len(parts) > 1 else 1.0, [int(n) for n in parts[2:]]
    except ValueError as error:
        raise RequestError(
            "noise is written noise:KIND:STRENGTH:BLUR",
            found=shown(text),
            remedy="such as noise:dissolve:0.5, or noise:shuffle:0.5:9",
        ) from error
    return NoiseChoice(parts[0], strength, *blur)


def check_enhancement(tiles: object, ratio: object) -> tuple[int, float]:
    """Check how much a picture is enhanced, in plain numbers.

    Raises:
        RequestError: `tiles` is no integer from 1 to 16, `ratio` no number from 0 to 1, or a ratio
            is given without tiles to mix.
    """
    if not _is_whole(tiles) or not 1 <= int(tiles) <= MOST_TILES:  # type: ignore[call-overload]
        raise RequestError(
            f"enhance_tiles must be an integer from 1 to {MOST_TILES}",
            found=shown(tiles),
            remedy="2 or 3 is usual; 1 looks at the whole picture alone",
        )
    if not is_finite(ratio) or not 0.0 <= ratio <= 1.0:
        raise RequestError("enhance_ratio must be a number from 0 to 1", found=shown(ratio))
    if ratio != 1.0 and tiles == 1:
        raise RequestError(
            "enhance_ratio has no effect without enhance_tiles",
            found=f"enhance_ratio={ratio:g}",
            remedy="pass enhance_tiles=2 beside it",
        )
    return int(tiles), float(ratio)  # type: ignore[call-overload]


def check_content(text: object, scale: object) -> float:
    """Check how much of a text is subtracted from pictures, as a float.

    Raises:
        RequestError: The text is no text or empty, or the scale no number, or without a text.
    """
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise RequestError(
            "neg_content_prompt must be a text that says what to take away",
            found=shown(text),
            remedy="leave it out to take nothing away",
        )
    amount = plain_number(scale, "neg_content_scale")
    if text is None and amount != 1.0:
        raise RequestError(
            "neg_content_scale has no effect without neg_content_prompt",
            found=f"neg_content_scale={amount:g}",
            remedy='pass neg_content_prompt="a cat" beside it',
        )
    return amount


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


Box: TypeAlias = tuple[float, float, float, float]
"""A box: left, top, right, bottom, in fractions of the picture's width and height."""


Fit: TypeAlias = str | Box
"""A fit: a name of FITS, or a box of the picture."""


CENTER_CROP = "center-crop"


TILE = "tile"


FITS = (CENTER_CROP, "squash", "pad", "top", "bottom", "left", "right", TILE)
"""The middle square; all of it, stretched; all of it, on black; the square at an edge; or several
squares, each a prompt of its own."""


def check_fit(fit: object) -> Fit:
    """Check a fit, in plain values. Raises RequestError for an unknown name or a bad box."""
    if isinstance(fit, str):
        if fit in FITS:
            return fit
        near = difflib.get_close_matches(fit.replace("_", "-").replace("centre", "center"), FITS)
        raise RequestError(
            "there is no such fit",
            argument="fit",
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
    """Check an amount of sharpening. Raises RequestError unless it is from 0 to 1."""
    if not is_finite(amount) or not 0.0 <= float(amount) <= 1.0:
        raise RequestError("sharpen must be a number from 0 to 1", found=shown(amount))
    return float(amount)


def check_negative(negative: object, *, has_pictures: bool) -> None:
    """Raise RequestError for negative pictures of a wrong type.

    Args:
        negative: See `ImagePrompt.negative`.
        has_pictures: Whether there is a picture of which noise of a kind could be made.
    """
    if isinstance(negative, str):
        if parse_noise(negative) is not None and not has_pictures:
            raise RequestError(
                "noise of a kind is made of the prompt's first picture",
                found=f"negative={negative!r}, without pictures",
                remedy=f'pass negative="{NOISE}", or a picture to steer away from',
            )
        return
    kinds = (Image.Image, np.ndarray, list, tuple, ImageEmbeds)
    empty = isinstance(negative, (list, tuple)) and not negative
    if empty or not (negative is None or isinstance(negative, kinds)):
        raise RequestError(
            f'ImagePrompt.negative must be a picture, pictures, embeds or "{NOISE}"',
            found=shown(negative),
            remedy="open files with ipa.open_image",
        )
