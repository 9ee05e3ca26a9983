"""Whole trajectories with masks against diffusers' own pipelines and their ip_adapter_masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image, ImageDraw

import ipa
from ipa import ImagePrompt
from oracle import models, trajectories
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline, run_diffusers

Open = Callable[..., ipa.Pipeline]
# Relative L2 of the final latents. Measured over all cases: torch 1.2e-6, mlx 1.4e-6.
LIMITS = {"torch": 3e-6, "mlx": 5e-6}
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
    "a size at which diffusers guesses wrong": Case(
        masks=((soft,),), model="deep", arguments={"width": 64, "height": 72}
    ),
}


def drawn(case: Case) -> list[list[np.ndarray] | None]:
    size = SHARED | case.arguments
    shape = [round(size[side] * case.detail) for side in ("height", "width")]
    return [group and [make(*shape) for make in group] for group in case.masks]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return trajectories.build(MODELS, tmp_path_factory)


@pytest.fixture(scope="module")
def expected(
    folders: dict[str, Path], references: list[Image.Image]
) -> Callable[[str], np.ndarray]:
    def run(name: str) -> np.ndarray:
        case = CASES[name]
        folder = folders[case.model]
        pipe = diffusers_pipeline(folder, [folder / f"{a}.safetensors" for a in case.adapters])
        masks = [
            None if group is None else torch.from_numpy(np.stack(group))[None]
            for group in drawn(case)
        ]
        return run_diffusers(
            pipe,
            "a red star",
            images=[[references[i] for i in group] for group in case.pictures],
            scale=list(case.scales),
            cross_attention_kwargs={"ip_adapter_masks": masks},
            **(SHARED | case.arguments),
        )

    return trajectories.once(run)


def prompts(case: Case, references: list[Image.Image]) -> list[ImagePrompt]:
    columns = (case.adapters, case.pictures, drawn(case), case.scales)
    return [
        ImagePrompt([references[i] for i in group], adapter=name, mask=masks, scale=scale)
        for name, group, masks, scale in zip(*columns, strict=True)
    ]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:The aspect ratio of the mask")
def test_trajectory(
    name: str,
    backend: str,
    folders: dict[str, Path],
    references: list[Image.Image],
    expected: Callable[[str], np.ndarray],
    open_pipeline: Open,
) -> None:
    case = CASES[name]
    pipe = open_pipeline(folders[case.model], backend, *case.adapters)
    result = pipe(
        "a red star",
        image_prompts=prompts(case, references),
        output_type="latent",
        **(SHARED | case.arguments),
    )
    assert relative(result.latents, expected(name)) < LIMITS[backend]
    warned = [text for text in result.info["warnings"] if "masks" in text]
    assert len(warned) == ("guesses wrong" in name)


def test_drawn_masks_as_people_prepare_them(
    backend: str, tiny: Path, references: list[Image.Image], open_pipeline: Open
) -> None:
    """A drawing through diffusers' IPAdapterMaskProcessor; the same file given to us."""
    drawing = Image.new("RGB", (96, 64))
    ImageDraw.Draw(drawing).ellipse((8, 8, 70, 50), fill="white")
    pipe = diffusers_pipeline(tiny, [tiny / "plus.safetensors"])
    theirs = run_diffusers(
        pipe,
        "a star",
        images=[references[2]],
        scale=0.8,
        cross_attention_kwargs={
            "ip_adapter_masks": [IPAdapterMaskProcessor().preprocess(drawing, 64, 96)]
        },
        **SHARED,
    )
    own = open_pipeline(tiny, backend, "plus")
    prompt = ImagePrompt(references[2], scale=0.8, mask=drawing)
    found = own("a star", image_prompts=prompt, output_type="latent", **SHARED).latents
    assert relative(found, theirs) < LIMITS[backend]
