"""Pictures of noise, to steer away from: a negative picture keeps the style from going astray.

Source: ComfyUI_IPAdapter_plus (IPAdapterNoise), its kinds, names, sizes and seeds, over torchvision
(CenterCrop, Resize, ElasticTransform, gaussian_blur). Numbers are torch's; they are rounded to 8
bits at the end, as ComfyUI's CLIP does with what has its size.

A picture's seed is the sum of its resized values, in whole numbers. torch adds them up in float32,
in an order that changes with the number of its threads: where the exact sum lies within 0.01 of a
whole number, which is one picture in fifty, ComfyUI's own seed depends on the machine. Here the sum
is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.contract.encoder_options import NoiseChoice, parse_noise
from ipa.contract.errors import RequestError, shown
from ipa.contract.image_prompt import ImagePrompt, Picture

from .comfyui_pixels import middle_corner, resized_floats
from .elastic import blurred, deformed
from .images import to_rgb
from .noise import NoiseStream

Floats = npt.NDArray[np.float32]

SIDE = 224
_SEEDS = 1_000_000_007
_ALPHA, _SIGMA = 75.0, 3.5  # how far "shuffle" moves a pixel, and how smoothly at strength 0


def _fade(picture: Floats, strength: float, noise: NoiseStream) -> Floats:
    return picture * np.float32(1.0 - strength) + noise.uniform(picture.shape) * np.float32(
        strength
    )


def _dissolve(picture: Floats, strength: float, noise: NoiseStream) -> Floats:
    gone = noise.uniform(picture.shape) < strength
    return np.where(gone, noise.uniform(picture.shape), picture)


def _gaussian(picture: Floats, strength: float, noise: NoiseStream) -> Floats:
    return picture + noise.normal(picture.shape) * np.float32(strength)


def _shuffle(picture: Floats, strength: float, noise: NoiseStream) -> Floats:
    moved = deformed(picture, _ALPHA, (1.0 - strength) * _SIGMA, noise)
    noise.uniform((2,))  # torchvision asks of each flip whether to do it, and is sure to
    upside_down = moved[::-1, ::-1]
    # The tensor is a view by now, whose channels come first in memory.
    height, width, channels = picture.shape
    drawn = noise.normal_by_pairs((channels, height, width)).transpose(1, 2, 0)
    share = drawn * np.float32(strength * 0.75)
    return np.asarray(upside_down * (1 - share) + share)


NOISE_KINDS: Mapping[str, Callable[[Floats, float, NoiseStream], Floats]] = {
    "fade": _fade,
    "dissolve": _dissolve,
    "gaussian": _gaussian,
    "shuffle": _shuffle,
}
"""Names, and what they make of a picture (H, W, 3) in [0, 1]."""


def noise_picture(
    picture: Picture | None = None, kind: str = "fade", strength: float = 1.0, blur: int = 0
) -> Image.Image:
    """A picture of noise, or a picture that goes under in it; the same for the same arguments.

    Args:
        picture: What to start from: its middle square; None is black.
        kind: "fade" mixes with uniform noise, "dissolve" replaces single values by it, "gaussian"
            adds normal noise, "shuffle" deforms the picture, turns it upside down and mixes it
            with normal noise.
        strength: From 0 to 1: how much.
        blur: The side in pixels of a gaussian blur at the end, odd; 0 is none.

    Returns:
        RGB, 224 × 224.

    Raises:
        RequestError: The kind is unknown, or the strength or blur out of range.
    """
    choice = NoiseChoice(kind, strength, blur)
    start = np.zeros((SIDE, SIDE, 3), np.float32) if picture is None else _start(picture)
    seed = noise_seed(start)
    made = NOISE_KINDS[choice.kind](start, float(choice.strength), NoiseStream(seed))
    made = np.clip(made, 0.0, 1.0)
    if choice.blur:
        made = np.clip(blurred(made, choice.blur, choice.blur * 0.15 + 0.35), 0.0, 1.0)
    return Image.fromarray(np.round(made * 255.0).astype(np.uint8))


def noise_seed(start: Floats) -> int:
    """The seed that a picture (H, W, 3) has of its values."""
    return int(start.sum(dtype=np.float64)) % _SEEDS


def _start(picture: Picture) -> Floats:
    """The middle square of a picture, (224, 224, 3): resized in floats, a little beyond [0, 1]."""
    image = to_rgb(picture)
    side = min(image.size)
    left, top = middle_corner(image.size, side, side)
    square = np.asarray(image.crop((left, top, left + side, top + side)))
    unit = square.transpose(2, 0, 1).astype(np.float32) / np.float32(255.0)
    return np.ascontiguousarray(resized_floats(unit, SIDE, SIDE).transpose(1, 2, 0))


def with_noise(prompt: ImagePrompt) -> ImagePrompt:
    """A prompt whose negative picture is one, where it was asked for as noise."""
    if not isinstance(prompt.negative, str):
        return prompt
    choice = parse_noise(prompt.negative)
    if choice is None:
        return replace(prompt, negative=noise_picture())
    if not prompt.images:
        raise RequestError(
            "noise of the picture itself needs a picture",
            found=shown(prompt.negative),
            remedy='pass negative="noise"',
        )
    made = noise_picture(prompt.images[0], choice.kind, choice.strength, choice.blur)
    return replace(prompt, negative=made)
