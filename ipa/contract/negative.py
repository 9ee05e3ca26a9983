"""What an image prompt steers away from: pictures, embeds, or noise."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .embeds import ImageEmbeds
from .encoder_options import NOISE, parse_noise
from .errors import RequestError, shown


def check_negative(negative: object, *, has_pictures: bool) -> None:
    """Raise RequestError for what nobody can steer away from.

    Args:
        negative: See `ImagePrompt.negative`.
        has_pictures: Whether there is a picture of which noise of a kind could be made.
    """
    if isinstance(negative, str):
        if parse_noise(negative) is not None and not has_pictures:
            raise RequestError(
                "noise of a kind is made of the prompt's first picture",
                found=f"negative={negative!r}, without pictures",
                remedy=f'pass negative="{NOISE}", or a picture of ipa.prepare.noise_picture',
            )
        return
    known = (Image.Image, np.ndarray, list, tuple, ImageEmbeds)
    empty = isinstance(negative, (list, tuple)) and not negative
    if empty or not (negative is None or isinstance(negative, known)):
        raise RequestError(
            f'ImagePrompt.negative must be a picture, pictures, embeds or "{NOISE}"',
            found=shown(negative),
            remedy="open files with ipa.prepare.images.open_image",
        )
