"""What an image prompt says of its picture's way to the features, beside its fit: values, checked.

Source: ComfyUI_IPAdapter_plus (encode_image_masked, IPAdapterNoise) and InstantStyle, whose names
these are.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np

from .errors import RequestError, shown
from .weights import is_finite, plain_number

MOST_TILES = 16
"""Along one side of a picture that is looked at more closely: 256 encodings."""

NOISE = "noise"

NOISE_KINDS = ("fade", "dissolve", "gaussian", "shuffle")
"""See `ipa.prepare.noise_picture.noise_picture`."""

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
    """What "noise:KIND:STRENGTH:BLUR" says, its end left out at will; None for "noise" alone.

    Raises:
        RequestError: It is no such text.
    """
    head, *parts = text.split(":")
    if head != NOISE or len(parts) > 3:
        raise RequestError(
            f'ImagePrompt.negative must be a picture, pictures, embeds or "{NOISE}"',
            found=shown(text),
            remedy="open files with ipa.prepare.images.open_image; or write noise:KIND:STRENGTH",
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
    """How closely a picture is looked at, in plain numbers.

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
    """How much of a text is taken away from pictures, as a float.

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
