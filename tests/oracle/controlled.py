"""Random ControlNets for the tiny models, and diffusers' own pipelines with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from ipa_torch.files.weights import quiet
from oracle import models
from oracle.pipelines import diffusers_pipeline

EMBEDDING = {"conditioning_embedding_out_channels": (4, 6, 8, 10)}  # eight pixels per latent


def write_controlnet(
    folder: Path, unet: Mapping[str, Any], *, seed: int, **changes: Any
) -> ControlNetModel:
    """A ControlNet of a UNet's structure, all tensors random and distinct: it acts everywhere."""
    with torch.random.fork_rng(devices=[]):
        plain = ControlNetModel.from_unet(UNet2DConditionModel(**unet), **EMBEDDING)
        net = ControlNetModel.from_config({**plain.config, **changes})
    models.randomize(net, seed).save_pretrained(folder, safe_serialization=True)
    return net


def controlled_pipeline(
    folder: Path, nets: Sequence[Path], adapters: Sequence[Path] = ()
) -> DiffusionPipeline:
    """Stock diffusers with ControlNets, and IP-Adapters if any, in float32 on the CPU."""
    base = diffusers_pipeline(folder, adapters)
    with quiet():
        loaded = [ControlNetModel.from_pretrained(path) for path in nets]
    parts = {**base.components, "controlnet": loaded if len(loaded) > 1 else loaded[0]}
    if "text_encoder_2" in parts:
        zeros = base.config.force_zeros_for_empty_prompt
        pipe = StableDiffusionXLControlNetPipeline(
            **parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False
        )
    else:
        pipe = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def weigh_results(net: ControlNetModel, weights: Sequence[float]) -> None:
    """Multiply each result of a ControlNet by a weight of its own, which diffusers cannot."""
    forward = net.forward

    def weighted(*args: Any, **kwargs: Any) -> Any:
        down, middle = forward(*args, **kwargs)
        return [r * w for r, w in zip(down, weights, strict=False)], middle * weights[-1]

    net.forward = weighted


def edges(size: tuple[int, int], seed: int) -> np.ndarray:
    """A control picture of (width, height), (H, W, 3) in 8 bits: smooth noise with an edge."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    draw = np.random.default_rng(seed)
    frequencies = draw.uniform(0.05, 0.4, (3, 2))
    waves = [np.sin(a * rows + b * columns) for a, b in frequencies]
    picture = np.stack(waves, axis=-1) * 90 + 120
    picture[rows > columns * height / width] *= 0.3
    return picture.clip(0, 255).astype(np.uint8)


def outline(picture: Image.Image) -> Image.Image:
    """White edges on black, as the demo's ControlNet was trained with: steps of any channel."""
    values = np.asarray(picture.convert("RGB")).astype(np.float64) / 255
    steps = [np.diff(values, axis=axis, append=values.take([-1], axis)) for axis in (0, 1)]
    strongest = np.abs(steps).max(axis=(0, -1))
    return Image.fromarray(np.where(strongest > 0.14, 255, 0).astype(np.uint8)).convert("RGB")
