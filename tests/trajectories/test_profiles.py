"""Whole trajectories under a profile, against what its program would compute.

"diffusers" is diffusers with its own mask processor and its own callback. "comfyui" is stock
diffusers too, where ComfyUI differs before the network: it is given features of ComfyUI's pixels
and of a black picture, scales that follow ComfyUI's noise levels, and ComfyUI's masks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import IPAdapterScaleCutoffCallback
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image, ImageDraw

import ipa
from ipa import ImagePrompt
from ipa.request.profiles import AS_MEANT
from oracle import comfyui, prompts, trajectories
from oracle.measure import relative
from oracle.models import SCHEDULER
from oracle.pipelines import diffusers_pipeline, run_diffusers

Open = Callable[..., ipa.Pipeline]
Expected = Callable[[str], np.ndarray]
# Relative L2 of the final latents. Measured over all cases: torch 1.8e-6, mlx 2.3e-6.
LIMITS = {"torch": 3e-6, "mlx": 5e-6}
CALL: dict[str, Any] = {
    "num_inference_steps": 4,
    "guidance_scale": 4.0,
    "width": 96,
    "height": 64,
    "seed": 3,
    "negative_prompt": "",
}


@pytest.fixture(scope="module")
def soft() -> Image.Image:
    """A drawing with edges of many pixels, of twice the picture's size."""
    drawing = Image.new("L", (24, 16))
    ImageDraw.Draw(drawing).ellipse((2, 2, 18, 12), fill=230)
    return drawing.resize((192, 128), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(references: list[Image.Image]) -> list[Image.Image]:
    """Neither square nor of the encoder's size."""
    return [image.resize((75, 50)) for image in references]


def ours(pipe: ipa.Pipeline, profile: str, prompt: ImagePrompt, **changes: Any) -> np.ndarray:
    call = CALL | {"image_prompts": prompt, "profile": profile, "output_type": "latent"} | changes
    return pipe("a star", **call).latents


# Kind of adapter, and where its window ends.
ENDS = {"at once": ("plus", 0.0), "early": ("linear", 0.3), "late": ("plus", 0.75)}


@pytest.fixture(scope="module")
def cut_off(tiny: Path, pictures: list[Image.Image], soft: Image.Image) -> Expected:
    """One mask on two pictures, binarised by diffusers' processor, cut off by its callback."""

    def run(name: str) -> np.ndarray:
        kind, end = ENDS[name]
        masks = IPAdapterMaskProcessor().preprocess([soft, soft], 64, 96)
        return run_diffusers(
            diffusers_pipeline(tiny, [tiny / f"{kind}.safetensors"]),
            "a star",
            images=[pictures[:2]],
            scale=[[0.8, 0.8]],
            cross_attention_kwargs={"ip_adapter_masks": [masks[:, 0][None]]},
            callback_on_step_end=IPAdapterScaleCutoffCallback(cutoff_step_ratio=end),
            **CALL,
        )

    return trajectories.once(run)


@pytest.mark.parametrize("name", ENDS)
def test_diffusers(
    name: str,
    tiny: Path,
    backend: str,
    open_pipeline: Open,
    pictures: list[Image.Image],
    soft: Image.Image,
    cut_off: Expected,
) -> None:
    kind, end = ENDS[name]
    pipe = open_pipeline(tiny, backend, kind)
    prompt = ImagePrompt(pictures[:2], mask=soft, scale=0.8, end=end)
    assert relative(ours(pipe, "diffusers", prompt), cut_off(name)) < LIMITS[backend]


def features(pipe: DiffusionPipeline, pixels: np.ndarray) -> torch.Tensor:
    return pipe.image_encoder(torch.tensor(pixels), output_hidden_states=True)


def comfy_embeds(
    pipe: DiffusionPipeline, kind: str, images: list[Image.Image], weights: list[float]
) -> torch.Tensor:
    """(2, N, …): black or zeros, then the pictures, each by its weight."""
    side = pipe.image_encoder.config.image_size
    seen = [comfyui.pixels(np.asarray(image), side) for image in images]
    black = comfyui.pixels(np.zeros((9, 9, 3), np.uint8), side)
    with torch.no_grad():
        out = features(pipe, np.stack([*seen, black]))
    rows = out.image_embeds if kind == "linear" else out.hidden_states[-2]
    factors = torch.tensor(weights).reshape(-1, *[1] * (rows.ndim - 1))
    nothing = torch.zeros_like(rows[-1:]) if kind == "linear" else rows[-1:]
    return torch.stack([nothing.expand_as(rows[:-1]), rows[:-1] * factors])


# Kind of adapter, and the sampler whose noise levels gate it.
MEANT = ", as meant"
SAMPLERS = {"a": ("linear", "ddim"), "b": ("plus", "euler_karras"), "c": ("full", "dpmpp_2m")}
WINDOW = (0.25, 0.6)  # of the training; the first step is at timestep 751, or before


@pytest.fixture(scope="module")
def gated(tiny: Path, pictures: list[Image.Image]) -> Expected:
    """Two pictures weighed before the projector, black against them, in a window of noise."""

    def run(name: str) -> np.ndarray:
        meant = name.endswith(MEANT)
        kind, scheduler = SAMPLERS[name.removesuffix(MEANT)]
        pipe = diffusers_pipeline(tiny, [tiny / f"{kind}.safetensors"])
        training = comfyui.training_sigmas(SCHEDULER)
        seen: list[bool] = []

        def before_next(pipe: Any, step: int, _: Any, kept: dict[str, Any]) -> dict[str, Any]:
            if step + 1 < CALL["num_inference_steps"]:
                here = training[int(pipe.scheduler.timesteps[step + 1])]
                if scheduler != "ddim":
                    here = float(pipe.scheduler.sigmas[step + 1])
                seen.append(comfyui.is_on(*WINDOW, here, training))
                on = float(seen[-1])
                pipe.set_ip_adapter_scale(on if meant else comfyui.as_published(on))
            return kept

        out = run_diffusers(
            pipe,
            "a star",
            embeds=[comfy_embeds(pipe, kind, pictures[:2], [0.9, 0.4])],
            scale=0.0,
            scheduler=scheduler,
            callback_on_step_end=before_next,
            **CALL,
        )
        assert set(seen) == {False, True}
        return out

    return trajectories.once(run)


@pytest.mark.parametrize("name", [*SAMPLERS, f"a{MEANT}"])
def test_comfyui(
    name: str,
    tiny: Path,
    backend: str,
    open_pipeline: Open,
    pictures: list[Image.Image],
    gated: Expected,
) -> None:
    kind, scheduler = SAMPLERS[name.removesuffix(MEANT)]
    pipe = open_pipeline(tiny, backend, kind)
    prompt = ImagePrompt(pictures[:2], scale=[0.9, 0.4], start=WINDOW[0], end=WINDOW[1])
    profile = AS_MEANT if name.endswith(MEANT) else "comfyui"
    found = ours(pipe, profile, prompt, scheduler=scheduler)
    assert relative(found, gated(name)) < LIMITS[backend]


def test_comfyui_mask(
    tiny: Path,
    backend: str,
    open_pipeline: Open,
    pictures: list[Image.Image],
    soft: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its masks in the place of diffusers' own; edges stay soft."""
    values = np.asarray(soft).astype(np.float32) / 255

    def downsample(mask: Any, batch: int, queries: int, width: int) -> torch.Tensor:
        laid_out = torch.tensor(comfyui.mask(values, queries, (8, 12)))
        return laid_out[None, :, None].repeat(batch, 1, width)

    monkeypatch.setattr(IPAdapterMaskProcessor, "downsample", staticmethod(downsample))
    there = diffusers_pipeline(tiny, [tiny / "plus.safetensors"])
    wanted = run_diffusers(
        there,
        "a star",
        embeds=[comfy_embeds(there, "plus", pictures[:1], [1.0])],
        scale=comfyui.as_published(0.7),
        cross_attention_kwargs={"ip_adapter_masks": [torch.tensor(values)[None, None]]},
        **CALL,
    )
    pipe = open_pipeline(tiny, backend, "plus")
    prompt = ImagePrompt(pictures[0], scale=0.7, mask=soft)
    assert relative(ours(pipe, "comfyui", prompt), wanted) < LIMITS[backend]


def test_comfyui_tiles(
    tiny: Path,
    backend: str,
    open_pipeline: Open,
    pictures: list[Image.Image],
    soft: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles of a sharpened picture, each a softmax of its own under its mask in their pixels."""
    there = diffusers_pipeline(tiny, [tiny / "plus.safetensors"])
    side, picture = there.image_encoder.config.image_size, np.asarray(pictures[0])
    own = np.asarray(soft).astype(np.float32) / 255
    cut = comfyui.tiled(picture, own, 0.5, -(-side * 8 // 7))
    tiles, masks = [tile for tile, _ in cut], np.stack([mask for _, mask in cut])

    def downsample(mask: Any, batch: int, queries: int, width: int) -> torch.Tensor:
        laid_out = torch.tensor(comfyui.mask(np.asarray(mask[0]), queries, (8, 12)))
        return laid_out[None, :, None].repeat(batch, 1, width)

    monkeypatch.setattr(IPAdapterMaskProcessor, "downsample", staticmethod(downsample))
    wanted = run_diffusers(
        there,
        "a star",
        embeds=[comfy_embeds(there, "plus", tiles, [1.0] * len(tiles))],
        scale=[[0.7] * len(tiles)],
        cross_attention_kwargs={"ip_adapter_masks": [torch.tensor(masks)[None]]},
        **CALL,
    )
    pipe = open_pipeline(tiny, backend, "plus")
    prompt = ImagePrompt(pictures[0], scale=0.7, mask=soft, fit="tile", sharpen=0.5)
    assert relative(ours(pipe, AS_MEANT, prompt), wanted) < LIMITS[backend]


LONG = "a red star and a blue ring " * 12  # two chunks
LONGER = "a green heart over two yellow squares " * 11  # three
TEXTS = {
    "one and two": ("tiny", LONG, "a ring"),
    "three and two": ("tiny", LONG, LONGER),
    "three and none": ("tiny", LONGER, ""),
    "SDXL": ("tiny_xl", "a ring", LONG),
}


@pytest.mark.parametrize("name", TEXTS)
def test_comfyui_repeats_the_shorter_text(
    name: str, request: pytest.FixtureRequest, backend: str, open_pipeline: Open
) -> None:
    """D25: diffusers is given the states of each text alone, repeated to one length."""
    model, positive, negative = TEXTS[name]
    folder = request.getfixturevalue(model)
    there = diffusers_pipeline(folder)
    told: dict[str, Any] = {}
    pairs = [
        prompts.prompt_embeds(there, [[(text, 1.0)]], count=1, rule="")
        for text in (positive, negative)
    ]
    states = comfyui.evened(*(own for own, _ in pairs))
    for prefix, own, (_, pooled) in zip(("", "negative_"), states, pairs, strict=True):
        told[f"{prefix}prompt_embeds"] = own
        if pooled is not None:
            told[f"{prefix}pooled_prompt_embeds"] = pooled
    call = {name: value for name, value in CALL.items() if name != "negative_prompt"}
    wanted = run_diffusers(there, None, **told, **call)
    call["negative_prompt"] = negative
    pipe = open_pipeline(folder, backend)
    texts = {"long_prompts": "chunks", "output_type": "latent"}
    found = {p: pipe(positive, profile=p, **call, **texts).latents for p in ("comfyui", None)}
    assert relative(found["comfyui"], wanted) < LIMITS[backend]
    # Chunks of no words change the picture, unless there are no words at all.
    assert (relative(found[None], wanted) > 1e-3) is bool(negative)


DRAWS: dict[str, dict[str, Any]] = {
    "text": {"scheduler": "ddim"},
    "ancestral": {"scheduler": "euler_ancestral"},
    "odd": {"scheduler": "euler_ancestral", "width": 72, "height": 40},
}


@pytest.mark.parametrize("profile", ["tencent", "comfyui"])
@pytest.mark.parametrize("name", DRAWS)
def test_one_generator_draws_all_pictures(
    name: str, profile: str, tiny: Path, backend: str, open_pipeline: Open
) -> None:
    """D29, against diffusers with a single generator."""
    call = CALL | DRAWS[name] | {"num_images": 3}
    wanted = run_diffusers(diffusers_pipeline(tiny), "a star", one_generator=True, **call)
    found = open_pipeline(tiny, backend)("a star", profile=profile, output_type="latent", **call)
    assert relative(found.latents, wanted) < LIMITS[backend]
