"""Image prompts with masks, held to diffusers' ip_adapter_masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ipa import ImagePrompt
from ipa.request.result import Result
from oracle import models
from oracle.pipelines import diffusers_pipeline, run_diffusers
from oracle.runs.suite import Array, Suite, folder_of
from oracle.workshop import Pictures, Workshop

MODELS = {
    "odd": models.Tiny(),
    "deep": models.Tiny(
        unet=models.FOUR_LEVELS,
        scheduler=models.SCHEDULER | {"_class_name": "EulerDiscreteScheduler"},
    ),
}
SHARED: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 4.0,
    "width": 96,
    "height": 64,
    "seed": 3,
}


def left(height: int, width: int) -> np.ndarray:
    """The left two fifths."""
    return np.tile(np.arange(width) < 0.4 * width, (height, 1)).astype(np.float32)


def right(height: int, width: int) -> np.ndarray:
    """What `left` leaves."""
    return 1 - left(height, width)


def soft(height: int, width: int) -> np.ndarray:
    """A slope with a soft edge."""
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    return (1 / (1 + np.exp(-6 * (x + 0.7 * y - 0.1)))).astype(np.float32)


def noise(height: int, width: int) -> np.ndarray:
    """No two values alike."""
    return np.random.default_rng((height, width)).random((height, width), np.float32)


Make = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Case:
    """Adapters with their pictures, masks (None: everywhere) and scales, one entry each.

    `detail` is the side of the masks over that of the picture.
    """

    masks: tuple[tuple[Make, ...] | None, ...]
    adapters: tuple[str, ...] = ("linear",)
    pictures: tuple[tuple[int, ...], ...] = ((0,),)
    scales: tuple[Any, ...] = (0.8,)
    model: str = "odd"
    detail: float = 1
    arguments: dict[str, Any] = field(default_factory=dict)


PAIR: dict[str, Any] = {"masks": ((left, right),), "pictures": ((0, 3),)}
TWO: dict[str, Any] = {"adapters": ("linear", "plus"), "pictures": ((0,), (5,))}
BLOCKS = {"down": {"block_0": [0.2, 0.9]}, "mid": 0.5, "up": 1.0}
SOME_STEPS = {"num_inference_steps": 5}
CASES = {
    "one": Case(masks=((left,),)),
    "soft": Case(masks=((soft,),)),
    "noise": Case(masks=((noise,),)),
    "larger than the picture": Case(masks=((soft,),), detail=5),
    "smaller than the picture": Case(masks=((soft,),), detail=0.25),
    "resampler": Case(masks=((left,),), adapters=("plus",)),
    "two pictures": Case(**PAIR),
    "two pictures, resampler": Case(**PAIR, adapters=("plus",)),
    "scales per picture": Case(**PAIR, scales=([0.9, 0.3],)),
    "one picture off": Case(**PAIR, scales=([0.0, 0.7],)),
    "three that overlap": Case(masks=((soft, left, noise),), pictures=((0, 3, 5),)),
    "scale by block": Case(masks=((soft,),), scales=(BLOCKS,)),
    "two adapters": Case(**TWO, masks=((left,), (right,)), scales=(0.7, 0.5)),
    "two adapters, one masked": Case(**TWO, masks=(None, (soft,)), scales=(0.7, 0.5)),
    "two adapters, three pictures": Case(
        adapters=("linear", "plus"),
        pictures=((0, 2), (5,)),
        masks=((left, soft), (right,)),
        scales=([0.7, 0.2], 0.5),
    ),
    "batch": Case(**PAIR, arguments={"num_images": 2}),
    "no guidance": Case(**PAIR, arguments={"guidance_scale": 1.0, "num_images": 2}),
    "wide": Case(masks=((soft,),), arguments={"width": 104, "height": 56}),
    "tall": Case(**PAIR, arguments={"width": 40, "height": 136}),
    "four levels": Case(**PAIR, model="deep"),
    "four levels, batch": Case(
        masks=((noise,),), model="deep", arguments={"width": 72, "height": 88, "num_images": 2}
    ),
    "reuse": Case(**PAIR, arguments=SOME_STEPS | {"cache_interval": 2}),
    "reuse, two adapters": Case(
        **TWO,
        masks=((left,), (soft,)),
        scales=(BLOCKS, 0.5),
        arguments=SOME_STEPS | {"cache_interval": 3, "cache_branch": 3},
    ),
    "reuse, four levels": Case(
        masks=((noise,),), model="deep", arguments=SOME_STEPS | {"cache_interval": 2}
    ),
    "forecast, two adapters": Case(
        **TWO,
        masks=((left,), (soft,)),
        scales=(BLOCKS, 0.5),
        arguments=SOME_STEPS | {"forecast": True, "forecast_warmup": 2},
    ),
    "a size at which diffusers guesses wrong": Case(
        masks=((soft,),), model="deep", arguments={"width": 64, "height": 72}
    ),
}


def drawn(case: Case) -> list[list[np.ndarray] | None]:
    size = SHARED | case.arguments
    shape = [round(size[side] * case.detail) for side in ("height", "width")]
    return [group and [make(*shape) for make in group] for group in case.masks]


def files(case: Case, workshop: Workshop) -> list[Path]:
    return [folder_of("Masks", MODELS, case.model, workshop)]


def theirs(case: Case, workshop: Workshop) -> Array:
    folder = folder_of("Masks", MODELS, case.model, workshop)
    pipe = diffusers_pipeline(folder, [folder / f"{a}.safetensors" for a in case.adapters])
    masks = [
        None if group is None else torch.from_numpy(np.stack(group))[None] for group in drawn(case)
    ]
    return run_diffusers(
        pipe,
        "a red star",
        images=[[workshop.references[i] for i in group] for group in case.pictures],
        scale=list(case.scales),
        cross_attention_kwargs={"ip_adapter_masks": masks},
        **(SHARED | case.arguments),
    )


def prompts(case: Case, references: Pictures) -> list[ImagePrompt]:
    columns = (case.adapters, case.pictures, drawn(case), case.scales)
    return [
        ImagePrompt([references[i] for i in group], adapter=name, mask=masks, scale=scale)
        for name, group, masks, scale in zip(*columns, strict=True)
    ]


def run(case: Case, workshop: Workshop, backend: str) -> Result:
    folder = folder_of("Masks", MODELS, case.model, workshop)
    return workshop.pipeline(folder, backend, *case.adapters)(
        "a red star",
        image_prompts=prompts(case, workshop.references),
        output_type="latent",
        **(SHARED | case.arguments),
    )


def ours(case: Case, workshop: Workshop, backend: str) -> Array:
    return run(case, workshop, backend).latents


# Measured over all cases: torch 1.2e-6, mlx 1.4e-6.
LIMITS = {"torch": 3e-6, "mlx": 5e-6}
SUITE = Suite("Masks", CASES, theirs, ours, files, limits=LIMITS)
