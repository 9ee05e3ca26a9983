"""What ComfyUI would compute, from its formulas, over torch's own interpolation and in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.nn.functional import interpolate

Array = np.ndarray[Any, np.dtype[Any]]
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)[:, None, None]
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)[:, None, None]


def unrounded(picture: Array, side: int, *, squash: bool = False) -> Array:
    """uint8 (H, W, 3) as (3, S, S) from 0 to 255 and a little beyond, before the rounding."""
    image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()[None] / 255
    return _clip_square(image, side, squash=squash)


def _clip_square(image: torch.Tensor, side: int, *, squash: bool = False) -> Array:
    tall, wide = image.shape[-2:]
    if (tall, wide) != (side, side):
        new = [round(side / min(tall, wide) * old) for old in (tall, wide)]
        size = [side, side] if squash else new
        image = interpolate(image, size=size, mode="bicubic", antialias=True)
        top, left = ((length - side) // 2 for length in image.shape[-2:])
        image = image[..., top : top + side, left : left + side]
    return (image * 255.0)[0].numpy()


def pixels(picture: Array, side: int) -> Array:
    """Normalised, (3, S, S) in float32; of bytes, or of floats in [0, 1]."""
    seen = unrounded if picture.dtype == np.uint8 else unrounded_floats
    eight_bits = np.rint(np.clip(seen(picture, side), 0, 255)) / np.float32(255)
    return (eight_bits - MEAN) / STD


def resized_by_pil(image: torch.Tensor, wide: int, tall: int) -> torch.Tensor:
    """(3, H, W) in [0, 1] by PIL's Lanczos filter, in 8 bits on the way: torchvision's two ways."""
    eight = Image.fromarray(image.mul(255).byte().permute(1, 2, 0).contiguous().numpy())
    made = eight.resize((wide, tall), resample=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(made)).permute(2, 0, 1).float().div(255)


def sharp(image: torch.Tensor, amount: float) -> torch.Tensor:
    """Contrast-adaptive sharpening of (C, H, W), in float32, black outside."""
    tall, wide = image.shape[1:]
    around = functional.pad(image, (1, 1, 1, 1))
    at = {(y, x): around[:, y : y + tall, x : x + wide] for y in range(3) for x in range(3)}
    cross = torch.stack([at[place] for place in ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1))])
    corners = torch.stack([at[place] for place in ((0, 0), (0, 2), (2, 0), (2, 2))])
    most = cross.amax(0) + corners.amax(0)
    least = cross.amin(0) + corners.amin(0)
    root = torch.sqrt(torch.reciprocal(most) * torch.minimum(least, 2 - most))
    w = -root * (amount * (1 / 5 - 1 / 8) + 1 / 8)
    sides = at[0, 1] + at[1, 0] + at[1, 2] + at[2, 1]
    return torch.nan_to_num((sides * w + at[1, 1]) * torch.reciprocal(1 + 4 * w)).clamp(0, 1)


def prepared(picture: Array, position: str, side: int, sharpening: float = 0.0) -> Array:
    """uint8 (H, W, 3) as PrepImageForClipVision makes it of any size, from 0 to 255, unrounded."""
    image = torch.from_numpy(picture.astype(np.float32) / 255.0).permute(2, 0, 1)
    tall, wide = image.shape[1:]
    if position == "pad":
        more = abs(tall - wide) // 2
        image = functional.pad(image, (more, more, 0, 0) if tall > wide else (0, 0, more, more))
    else:
        short = min(tall, wide)
        x = {"left": 0, "right": wide - short}.get(position, (wide - short) // 2)
        y = {"top": 0, "bottom": tall - short}.get(position, (tall - short) // 2)
        image = image[:, y : y + short, x : x + short]
    image = resized_by_pil(image, side, side)
    return ((sharp(image, sharpening) if sharpening > 0 else image) * 255.0).numpy()


def middle(image: torch.Tensor, tall: int, wide: int) -> torch.Tensor:
    """torchvision's CenterCrop of (…, H, W)."""
    top, left = (round((a - b) / 2.0) for a, b in zip(image.shape[-2:], (tall, wide), strict=True))
    return image[..., top : top + tall, left : left + wide]


def smooth(mask: torch.Tensor, tall: int, wide: int) -> torch.Tensor:
    """torchvision's bicubic Resize of (1, H, W)."""
    if tuple(mask.shape[-2:]) == (tall, wide):
        return mask
    return interpolate(mask[None], size=(tall, wide), mode="bicubic", antialias=True)[0]


def as_published(scale: float) -> dict[str, float]:
    """A scale where the middle block is never patched."""
    return {"down": scale, "mid": 0.0, "up": scale}


def evened(*states: torch.Tensor) -> list[torch.Tensor]:
    """States of texts (1, L, C), each repeated to the least length that all of them divide."""
    length = math.lcm(*(own.shape[1] for own in states))
    return [own.repeat(1, length // own.shape[1], 1) for own in states]


def tiled(
    picture: Array, mask: Array | None = None, sharpening: float = 0.0, size: int = 256
) -> list[tuple[Array, Array]]:
    """IPAdapterTiled's tiles of a picture, (S, S, 3) in [0, 1], each with its mask (H, W)."""
    image = torch.from_numpy(picture.astype(np.float32) / 255.0).permute(2, 0, 1)
    tall, wide = image.shape[1:]
    own = torch.ones(1, tall, wide) if mask is None else torch.tensor(mask)[None]
    own = smooth(own, tall, wide)
    if 0.75 < tall / wide < 1.33:
        short = min(tall, wide)
        image, own, new = middle(image, short, short), middle(own, short, short), (2 * size,) * 2
    elif tall < wide:
        new = (int(size * wide / tall), size)
    else:
        new = (size, int(size * tall / wide))
    image, own = resized_by_pil(image, *new), smooth(own, new[1], new[0])
    if tall / wide > 4 or tall / wide < 0.25:
        longest = (size, 4 * size) if tall < wide else (4 * size, size)
        image, own = middle(image, *longest), middle(own, *longest)
    if sharpening > 0:
        image = sharp(image, sharpening)
    rows, columns = (math.ceil(length / size) for length in image.shape[1:])
    down, across = (
        max(0, (n * size - length) / (n - 1 if n > 1 else 1))
        for n, length in zip((rows, columns), image.shape[1:], strict=True)
    )
    made = []
    for y in range(rows):
        for x in range(columns):
            top, left = int(y * (size - down)), int(x * (size - across))
            place = (slice(None), slice(top, top + size), slice(left, left + size))
            alone = torch.zeros_like(own)
            alone[place] = own[place]
            made.append((image[place].permute(1, 2, 0).numpy(), alone[0].numpy()))
    return made


def unrounded_floats(values: Array, side: int) -> Array:
    """As `unrounded`, of a picture (H, W, 3) in [0, 1]."""
    image = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]
    return _clip_square(image, side)


def noise_start(picture: Array) -> torch.Tensor:
    """uint8 (H, W, 3) as IPAdapterNoise starts from it: (224, 224, 3), the middle of it resized."""
    image = torch.from_numpy(picture.astype(np.float32) / 255.0)[None].permute(0, 3, 1, 2)
    tall, wide = image.shape[-2:]
    side = min(tall, wide)
    top, left = round((tall - side) / 2.0), round((wide - side) / 2.0)
    image = image[..., top : top + side, left : left + side]
    if side != 224:
        image = interpolate(image, size=(224, 224), mode="bicubic", antialias=True)
    return image.permute(0, 2, 3, 1)[0]


def mask(values: Array, queries: int, latents: tuple[int, int]) -> Array:
    """A mask (H, W) for a number of queries, over latents of (rows, columns)."""
    grid = mask_grid(queries, latents)
    made = interpolate(torch.tensor(values)[None, None], size=grid, mode="bilinear")
    return laid_out(made[0, 0].numpy(), queries)


def mask_grid(queries: int, latents: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that it takes for a number of queries."""
    tall, wide = latents
    rows = math.floor(tall / math.sqrt(tall * wide / queries))
    if queries % rows:
        rows += 1
    return rows, queries // rows


def laid_out(grid: Array, queries: int) -> Array:
    """A grid row by row, padded or cut on both sides."""
    flat = torch.from_numpy(grid).flatten()
    short = queries - len(flat)
    if short >= 0:
        before = torch.zeros(short // 2)
        return torch.cat([before, flat, torch.zeros(short - len(before))]).numpy()
    start = (len(flat) - queries) // 2
    return flat[start : start + queries].numpy()


def training_sigmas(scheduler: dict[str, Any]) -> Array:
    """Of a scaled linear schedule, in float64."""
    ends = [math.sqrt(scheduler[name]) for name in ("beta_start", "beta_end")]
    betas = np.linspace(*ends, scheduler["num_train_timesteps"]) ** 2
    signal = np.cumprod(1 - betas)
    return np.sqrt((1 - signal) / signal)


def sigma_at(fraction: float, sigmas: Array) -> float:
    """The noise level of a fraction of the training timesteps, from noisy to clean."""
    if not 0 < fraction < 1:
        return math.inf if fraction <= 0 else 0.0
    place = (1 - fraction) * 999
    below = math.floor(place)
    share = place - below
    above = min(below + 1, len(sigmas) - 1)
    return float(sigmas[below] ** (1 - share) * sigmas[above] ** share)


def is_on(start: float, end: float, sigma: float, sigmas: Array) -> bool:
    """Whether a window covers a noise level."""
    return sigma_at(end, sigmas) <= sigma <= sigma_at(start, sigmas)
