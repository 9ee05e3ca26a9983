"""Pictures to start from, and masks: img2img, inpainting by blending and with nine channels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image, ImageDraw

import ipa
from ipa_torch.files.weights import quiet
from oracle import models
from oracle.reuse import reused
from oracle.runs.suite import Array, Suite
from oracle.schedulers import diffusers_scheduler
from oracle.workshop import XL, Workshop

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
    """A model by name, and a call; `masked` takes the mask, `count` pictures are made.

    With a profile, one generator draws for all of them; `each` starts from a picture of its own.
    """

    model: str
    masked: bool = False
    scheduler: str = "ddim"
    strength: float = 0.5
    count: int = 1
    latents: bool = False
    steps: int = 4
    call: dict[str, Any] = field(default_factory=dict)
    profile: str | None = None
    each: bool = False

    @property
    def is_cropped(self) -> bool:
        return "padding_mask_crop" in self.call

    @property
    def size(self) -> tuple[int, int]:
        """Of the picture and the mask."""
        return (88, 72) if self.is_cropped else (SIZE["width"], SIZE["height"])


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
    "reuse": Case("sd", strength=0.8, call={"cache_interval": 2}),
    "mask, reuse": Case(
        "sd", masked=True, scheduler="euler", call={"cache_interval": 2, "cache_branch": 1}
    ),
    "nine, reuse": Case("sd9", masked=True, strength=0.8, count=2, call={"cache_interval": 3}),
    "xl nine": Case("xl9", masked=True, scheduler="euler", strength=0.8, count=2),
    "xl nine, from noise": Case("xl9", masked=True, strength=1.0),
}
KINDS = {
    "img2img": Case("sd"),
    "img2img of SDXL": Case("xl"),
    "inpainting": Case("sd", masked=True),
    "inpainting of SDXL": Case("xl", masked=True),
    "nine channels": Case("sd9", masked=True),
    "nine channels of SDXL": Case("xl9", masked=True),
}
MORE = {
    f"{kind}, strength {strength}, {scheduler}": replace(
        case, strength=strength, scheduler=scheduler, steps=10
    )
    for kind, case in KINDS.items()
    for strength in (0.3, 0.6, 1.0)
    for scheduler in ("ddim", "euler", "dpmpp_2m_karras", "unipc")
}


def _folder(case: Case, workshop: Workshop) -> Path:
    seed = 40 + list(MODELS).index(case.model)
    return workshop.model(f"editing/{case.model}", MODELS[case.model], seed=seed)


def files(case: Case, workshop: Workshop) -> list[Path]:
    return [_folder(case, workshop)]


def picture(size: tuple[int, int]) -> Image.Image:
    """Colours that change in both directions, with noise, so that no two latents are alike."""
    width, height = size
    noise = np.random.default_rng(11).integers(0, 60, (height, width, 3))
    ramp = np.linspace(0, 195, width)[None, :, None] * np.array([1.0, 0.4, 0.1])
    ramp = ramp + np.linspace(0, 100, height)[:, None, None] * np.array([0.0, 0.6, 0.9])
    return Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8))


def _pictures(case: Case) -> list[Image.Image]:
    return [picture(case.size).rotate(180 * (n % 2)) for n in range(case.count)]


def mask_of(size: tuple[int, int]) -> Image.Image:
    """White where it is drawn; its border runs through latent pixels."""
    mask = Image.new("L", size, 0)
    width, height = size
    ImageDraw.Draw(mask).ellipse((width // 3, height // 5, width - 9, height - 11), fill=255)
    return mask


def theirs(case: Case, workshop: Workshop) -> Array:
    """The latents of the last step, also where the pipeline makes a picture of them."""
    folder = _folder(case, workshop)
    stock = workshop.stock(folder, "linear")
    xl = "XL" if case.model.startswith("xl") else ""
    kind = "Inpaint" if case.masked else "Img2Img"
    with quiet():
        pipe = getattr(diffusers, f"StableDiffusion{xl}{kind}Pipeline").from_pipe(stock)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers_scheduler(case.scheduler, dict(stock.scheduler.config))
    pipe.set_ip_adapter_scale(0.7)
    image = torch.from_numpy(LATENTS) if case.latents else picture(case.size)
    mask = mask_of(case.size)
    last: list[torch.Tensor] = []

    def keep(_: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        last.append(tensors["latents"])
        return tensors

    several = case.count > 1 and (case.profile is None or case.each)
    generators = [torch.Generator("cpu").manual_seed(5 + n) for n in range(case.count)]
    images = [image] * case.count if not case.each else _pictures(case)
    call = {"guidance_scale": 3.0, **case.call}
    if case.masked:
        call |= {"mask_image": [mask] * case.count if several else mask, **SIZE}
    with reused(pipe, call.pop("cache_interval", 1), call.pop("cache_branch", 0)):
        pipe(
            ["a red star"] * case.count if several else "a red star",
            num_images_per_prompt=1 if several else case.count,
            image=images if several else image,
            strength=case.strength,
            num_inference_steps=case.steps,
            ip_adapter_image=[[workshop.references[2]]],
            generator=generators if case.profile is None else generators[0],
            output_type="pil" if case.is_cropped else "latent",
            callback_on_step_end=keep,
            **call,
        )
    return last[-1].numpy()


def ours(case: Case, workshop: Workshop, backend: str) -> Array:
    call: dict[str, Any] = {"guidance_scale": 3.0, **case.call}
    if case.masked:
        call["mask_image"] = mask_of(case.size)
    if case.is_cropped:
        call |= SIZE
    if case.profile is not None:
        call |= {"profile": case.profile, "negative_prompt": ""}
    image = LATENTS if case.latents else picture(case.size)
    pipe = workshop.pipeline(_folder(case, workshop), backend, "linear")
    return pipe(
        "a red star",
        image_prompts=ipa.ImagePrompt(workshop.references[2], scale=0.7),
        image=_pictures(case) if case.each else image,
        strength=case.strength,
        scheduler=case.scheduler,
        num_inference_steps=case.steps,
        num_images=case.count,
        seed=5,
        output_type="latent",
        **call,
    ).latents


_TENCENT: dict[str, Any] = {"count": 2, "profile": "tencent"}
ONE_GENERATOR = {
    "ddim": Case("sd", strength=0.8, **_TENCENT),
    "ancestral": Case("sd", scheduler="euler_ancestral", strength=0.75, **_TENCENT),
    "a picture each": Case("sd", scheduler="euler_ancestral", each=True, **_TENCENT),
    "mask": Case("sd", masked=True, scheduler="euler_ancestral", **_TENCENT),
    "mask, from noise": Case("sd", masked=True, strength=1.0, **_TENCENT),
    "mask, a picture each": Case("sd", masked=True, each=True, **_TENCENT),
    "nine channels": Case("sd9", masked=True, scheduler="euler_ancestral", **_TENCENT),
}
"""What tencent's, which has one generator for all pictures, draws of it (D29 of the register)."""

# Measured over all cases: torch 3.9e-6, mlx 3.8e-6.
SUITE = Suite("Img2img and inpainting", CASES, theirs, ours, files, MORE)
