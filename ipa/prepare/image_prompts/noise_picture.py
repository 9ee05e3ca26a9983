"""ComfyUI's noise pictures, which an image prompt is steered away from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.arrays import Doubles, Floats
from ipa.errors import RequestError, shown
from ipa.prepare.images.comfyui_pixels import middle_corner, resized_floats
from ipa.prepare.images.pictures import to_rgb
from ipa.prepare.samplers.noise import NoiseStream
from ipa.request.image_prompt import ImagePrompt
from ipa.request.picture_options import NoiseChoice, parse_noise
from ipa.request.pictures import Picture


def blurred(picture: npt.NDArray[np.floating], side: int, sigma: float) -> Floats:
    """An array (H, W, …) blurred by a gaussian kernel of an odd side, mirrored at the edges.

    As torchvision has it, where the kernel's ends stand at side / √8 and not at its last pixels:
    it is wider than its sigma says.
    """
    end = (side - 1) / (2.0 * np.sqrt(2.0))
    kernel = np.exp(-((np.linspace(-end, end, side) / sigma) ** 2))
    kernel /= kernel.sum()
    values = np.asarray(picture, np.float64)
    for axis in (0, 1):
        widths = [(0, 0)] * values.ndim
        widths[axis] = (side // 2, side // 2)
        wide, count = np.pad(values, widths, mode="reflect"), values.shape[axis]
        shifted = (wide.take(range(n, n + count), axis=axis) for n in range(side))
        values = sum((w * part for w, part in zip(kernel, shifted, strict=True)), np.zeros(()))
    return values.astype(np.float32)


def deformed(picture: Floats, alpha: float, sigma: float, noise: NoiseStream) -> Floats:
    """A picture (H, W, C) with every pixel moved a little, at random; black outside.

    Args:
        picture: In [0, 1].
        alpha: Twice the farthest that a pixel may come from.
        sigma: How alike the moves of neighbours are, in pixels; at 0 each has its own.
        noise: Where the moves are drawn from: first across, then down.
    """
    height, width = picture.shape[:2]
    across, down = (
        _moves(noise, (height, width), sigma) * alpha / side for side in (width, height)
    )
    # grid_sample's own coordinates: the picture goes from -1 to 1.
    x = ((_centres(width)[None, :] + across + 1.0) * width - 1.0) / 2.0
    y = ((_centres(height)[:, None] + down + 1.0) * height - 1.0) / 2.0
    # What is sampled beside it says where the picture ends; torchvision multiplies by it once more.
    framed = np.concatenate([picture, np.ones_like(picture[..., :1])], axis=2)
    sampled = _bilinear(framed, x, y)
    return (sampled[..., :-1] * sampled[..., -1:]).astype(np.float32)


def _moves(noise: NoiseStream, shape: tuple[int, int], sigma: float) -> Doubles:
    drawn = noise.uniform(shape) * np.float32(2.0) - np.float32(1.0)
    if sigma <= 0.0:
        return drawn.astype(np.float64)
    return blurred(drawn, int(8 * sigma + 1) | 1, sigma).astype(np.float64)


def _centres(side: int) -> Doubles:
    return np.linspace((1 - side) / side, (side - 1) / side, side)


def _bilinear(picture: Floats, x: Doubles, y: Doubles) -> Doubles:
    """A picture (H, W, C) sampled bilinearly at places in pixels (H, W), zeros outside."""
    height, width = picture.shape[:2]
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    total = np.zeros((*x.shape, picture.shape[2]))
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        weight = (1.0 - np.abs(x - column)) * (1.0 - np.abs(y - row)) * inside
        taken = picture[row.clip(0, height - 1), column.clip(0, width - 1)]
        total += taken * weight[..., None]
    return total


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
    shifted = deformed(picture, _ALPHA, (1.0 - strength) * _SIGMA, noise)
    noise.uniform((2,))  # torchvision asks of each flip whether to do it, and is sure to
    upside_down = shifted[::-1, ::-1]
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
"""The kinds of noise, and what they make of a picture (H, W, 3) in [0, 1]."""


def noise_picture(
    picture: Picture | None = None, kind: str = "fade", strength: float = 1.0, blur: int = 0
) -> Image.Image:
    """A noise picture, alone or over a picture; the same for the same arguments.

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
    """The seed for a picture (H, W, 3), made of its values."""
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
    """A prompt with its negative noise picture made, if noise was asked for."""
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
