"""Pictures to start from and masks: whole runs against diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import ipa
from ipa_torch.loading import quiet
from oracle import models
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline
from oracle.schedulers import diffusers_scheduler

# Relative L2 of the final latents. Measured over all cases: torch 3.9e-6, mlx 3.8e-6.
LIMITS = {"torch": 1e-5, "mlx": 1e-4}

XL = models.Tiny(unet=models.XL_UNET, second_text=models.SECOND_TEXT)
MODELS = {
    "sd": models.Tiny(),
    "sd9": models.Tiny(unet=models.UNET | {"in_channels": 9}),
    "xl": XL,
    "xl9": models.Tiny(
        unet=models.XL_UNET | {"in_channels": 9, "out_channels": 4}, second_text=models.SECOND_TEXT
    ),
}
SIZE = {"width": 64, "height": 48}
LATENTS = np.random.default_rng(8).standard_normal((1, 4, 6, 8), dtype=np.float32)


@dataclass(frozen=True)
class Case:
    """A model by name, and a call; `masked` takes the mask, `count` pictures are made."""

    model: str
    masked: bool = False
    scheduler: str = "ddim"
    strength: float = 0.5
    count: int = 1
    latents: bool = False
    call: dict[str, Any] = field(default_factory=dict)


CASES = {
    "ddim": Case("sd", strength=0.8, count=2),
    "euler": Case("sd", scheduler="euler", strength=0.5),
    "dpmpp_2m": Case("sd", scheduler="dpmpp_2m", strength=0.8),
    "all of it": Case("sd", scheduler="euler_karras", strength=1.0),
    "euler ancestral": Case("sd", scheduler="euler_ancestral", strength=0.75, count=2),
    "xl": Case("xl", scheduler="euler", strength=0.5, count=2),
    "from latents": Case("sd", scheduler="dpmpp_2m_karras", strength=0.8, latents=True),
    "mask": Case("sd", masked=True, strength=0.5, count=2),
    "mask, euler": Case("sd", masked=True, scheduler="euler", strength=0.8),
    "mask, dpmpp_2m": Case("sd", masked=True, scheduler="dpmpp_2m", strength=1.0),
    "mask, ancestral": Case("sd", masked=True, scheduler="euler_ancestral", strength=0.8, count=2),
    "mask, no guidance": Case("sd", masked=True, strength=0.8, call={"guidance_scale": 1.0}),
    "mask, cropped": Case("sd", masked=True, strength=0.8, call={"padding_mask_crop": 3}),
    "xl mask": Case("xl", masked=True, scheduler="euler", strength=0.8, count=2),
    "xl mask, from noise": Case("xl", masked=True, scheduler="dpmpp_2m", strength=1.0),
    "nine channels": Case("sd9", masked=True, strength=0.5, count=2),
    "nine, from noise": Case("sd9", masked=True, scheduler="euler", strength=1.0),
    "nine, ancestral": Case("sd9", masked=True, scheduler="euler_ancestral", strength=0.8),
    "xl nine": Case("xl9", masked=True, scheduler="euler", strength=0.8, count=2),
    "xl nine, from noise": Case("xl9", masked=True, strength=1.0),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    names = list(MODELS)
    return cache(
        lambda name: models.build_with_adapters(
            tmp_path_factory.mktemp(name), MODELS[name], seed=40 + names.index(name)
        )
    )


@pytest.fixture(scope="module")
def opened(
    folders: Callable[[str], Path], open_pipeline: Callable[..., ipa.Pipeline]
) -> Callable[[str, str], ipa.Pipeline]:
    return cache(lambda model, backend: open_pipeline(folders(model), backend, "linear"))


@pytest.fixture(scope="module")
def stock(folders: Callable[[str], Path]) -> Callable[[str], Any]:
    return cache(
        lambda model: diffusers_pipeline(folders(model), [folders(model) / "linear.safetensors"])
    )


def picture(size: tuple[int, int]) -> Image.Image:
    """Colours that change in both directions, with noise, so that no two latents are alike."""
    width, height = size
    noise = np.random.default_rng(11).integers(0, 60, (height, width, 3))
    ramp = np.linspace(0, 195, width)[None, :, None] * np.array([1.0, 0.4, 0.1])
    ramp = ramp + np.linspace(0, 100, height)[:, None, None] * np.array([0.0, 0.6, 0.9])
    return Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8))


def mask_of(size: tuple[int, int]) -> Image.Image:
    """White where it is drawn; its border runs through latent pixels."""
    mask = Image.new("L", size, 0)
    width, height = size
    ImageDraw.Draw(mask).ellipse((width // 3, height // 5, width - 9, height - 11), fill=255)
    return mask


def theirs(pipe: Any, case: Case, reference: Image.Image) -> np.ndarray:
    """The latents of the last step of diffusers' pipeline for what the case does."""
    xl = "XL" if case.model.startswith("xl") else ""
    kind = "Inpaint" if case.masked else "Img2Img"
    with quiet():
        own = getattr(diffusers, f"StableDiffusion{xl}{kind}Pipeline").from_pipe(pipe)
    own.set_progress_bar_config(disable=True)
    own.scheduler = diffusers_scheduler(case.scheduler, dict(pipe.scheduler.config))
    own.set_ip_adapter_scale(0.7)
    crop = case.call.get("padding_mask_crop")
    size = (88, 72) if crop is not None else (SIZE["width"], SIZE["height"])
    image, mask = torch.from_numpy(LATENTS) if case.latents else picture(size), mask_of(size)
    last: list[torch.Tensor] = []

    def keep(_: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        last.append(tensors["latents"])
        return tensors

    several = case.count > 1
    call = {"guidance_scale": 3.0, **case.call}
    if case.masked:
        call |= {"mask_image": [mask] * case.count if several else mask, **SIZE}
    own(
        ["a red star"] * case.count,
        image=[image] * case.count if several else image,
        strength=case.strength,
        num_inference_steps=4,
        ip_adapter_image=[[reference]],
        generator=[torch.Generator("cpu").manual_seed(5 + n) for n in range(case.count)],
        output_type="latent" if crop is None else "pil",
        callback_on_step_end=keep,
        **call,
    )
    return last[-1].numpy()


@pytest.mark.parametrize("name", CASES)
def test_trajectory(
    name: str,
    opened: Callable[[str, str], ipa.Pipeline],
    stock: Callable[[str], Any],
    references: list[Image.Image],
) -> None:
    case = CASES[name]
    expected = theirs(stock(case.model), case, references[2])
    crop = case.call.get("padding_mask_crop")
    size = (88, 72) if crop is not None else (SIZE["width"], SIZE["height"])
    call: dict[str, Any] = {"guidance_scale": 3.0, **case.call}
    if case.masked:
        call["mask_image"] = mask_of(size)
    if crop is not None:
        call |= SIZE
    for backend, limit in LIMITS.items():
        found = opened(case.model, backend)(
            "a red star",
            image_prompts=ipa.ImagePrompt(references[2], scale=0.7),
            image=LATENTS if case.latents else picture(size),
            strength=case.strength,
            scheduler=case.scheduler,
            num_inference_steps=4,
            num_images=case.count,
            seed=5,
            output_type="latent",
            **call,
        )
        assert relative(found.latents, expected) < limit
