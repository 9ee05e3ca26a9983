"""What ComfyUI would compute, from its formulas, over torch's own interpolation and in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

Array = np.ndarray[Any, np.dtype[Any]]
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)[:, None, None]
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)[:, None, None]


def unrounded(picture: Array, side: int, *, squash: bool = False) -> Array:
    """uint8 (H, W, 3) as (3, S, S) from 0 to 255 and a little beyond, before the rounding."""
    image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()[None] / 255
    tall, wide = image.shape[-2:]
    if (tall, wide) != (side, side):
        new = [round(side / min(tall, wide) * old) for old in (tall, wide)]
        size = [side, side] if squash else new
        image = interpolate(image, size=size, mode="bicubic", antialias=True)
        top, left = ((length - side) // 2 for length in image.shape[-2:])
        image = image[..., top : top + side, left : left + side]
    return (image * 255.0)[0].numpy()


def pixels(picture: Array, side: int) -> Array:
    """Normalised, (3, S, S) in float32."""
    eight_bits = np.rint(np.clip(unrounded(picture, side), 0, 255)) / np.float32(255)
    return (eight_bits - MEAN) / STD


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
    tall, wide = latents
    rows = math.floor(tall / math.sqrt(tall * wide / queries))
    if queries % rows:
        rows += 1
    flat = interpolate(
        torch.tensor(values)[None, None], size=(rows, queries // rows), mode="bilinear"
    ).flatten()
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
