"""Pictures of noise, to steer away from: a negative picture keeps the style from going astray.

Source: ComfyUI_IPAdapter_plus (IPAdapterNoise), its kinds, names, sizes and seeds; "shuffle" is
left out, since it is torchvision's own random deformation. Numbers are torch's; they are rounded to
8 bits, which ComfyUI does not do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.contract.errors import RequestError
from ipa.contract.image_prompt import Picture

from .images import to_rgb
from .noise import NoiseStream

Floats = npt.NDArray[np.float32]

SIDE = 224
_SEEDS = 1_000_000_007


def _fade(picture: Floats, strength: float, noise: NoiseStream) -> Floats:
    return picture * np.float32(1.0 - strength) + noise.uniform(picture.shape) * np.float32(
        strength
    )


def _dissolve(picture: Floats, strength: float, noise: NoiseStream) -> Floats:
    gone = noise.uniform(picture.shape) < strength
    return np.where(gone, noise.uniform(picture.shape), picture)


def _gaussian(picture: Floats, strength: float, noise: NoiseStream) -> Floats:
    return picture + noise.normal(picture.shape) * np.float32(strength)


NOISE_KINDS: Mapping[str, Callable[[Floats, float, NoiseStream], Floats]] = {
    "fade": _fade,
    "dissolve": _dissolve,
    "gaussian": _gaussian,
}
"""Names, and what they make of a picture (H, W, 3) in [0, 1]."""


def noise_picture(
    picture: Picture | None = None, kind: str = "fade", strength: float = 1.0
) -> Image.Image:
    """A picture of noise, or a picture that goes under in it; the same for the same arguments.

    Args:
        picture: What to start from: its middle square; None is black.
        kind: "fade" mixes with uniform noise, "dissolve" replaces single values by it, "gaussian"
            adds normal noise.
        strength: From 0 to 1: how much.

    Returns:
        RGB, 224 × 224.

    Raises:
        RequestError: The kind is unknown, or the strength out of range.
    """
    if kind not in NOISE_KINDS:
        raise RequestError(
            "there is no such noise", found=repr(kind), remedy=f"known: {', '.join(NOISE_KINDS)}"
        )
    if isinstance(strength, bool) or not 0.0 <= strength <= 1.0:
        raise RequestError("strength must be a number from 0 to 1", found=repr(strength))
    start = np.zeros((SIDE, SIDE, 3), np.float32)
    if picture is not None:
        image = to_rgb(picture)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        resized = square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        start = np.asarray(resized).astype(np.float32) / np.float32(255.0)
    seed = int(start.sum(dtype=np.float64)) % _SEEDS
    made = np.clip(NOISE_KINDS[kind](start, float(strength), NoiseStream(seed)), 0.0, 1.0)
    return Image.fromarray(np.round(made * 255.0).astype(np.uint8))
