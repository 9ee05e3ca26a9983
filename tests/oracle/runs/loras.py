"""LoRAs with scales, several at once, of text encoders too, beside image prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

import ipa
from ipa import ImagePrompt
from ipa_torch.files.weights import quiet
from oracle import adapters, loras, models
from oracle.loras import File, Place
from oracle.pipelines import diffusers_pipeline, run_diffusers
from oracle.runs.suite import Array, Suite
from oracle.workshop import Workshop

SHARED: dict[str, Any] = {
    "num_inference_steps": 2,
    "width": 64,
    "height": 48,
    "guidance_scale": 4.0,
    "seed": 5,
}
Modules = dict[Place, torch.nn.Module]


def part(modules: Modules, *components: str) -> Modules:
    return {place: module for place, module in modules.items() if place[0] in components}


def some(modules: Modules, first: int = 0) -> Modules:
    """Every third layer of the UNet, but those whose names diffusers confuses in SDXL; and all of
    the texts', since it loses those of kohya's where there is no out_proj."""
    unet = [n for n in modules if n[0] == "unet" and "add_embedding" not in n[1]]
    texts = [n for n in modules if n[0] != "unet"]
    return {place: modules[place] for place in (*unet[first::3], *texts)}


def kohya(modules: Modules, base: str) -> File:
    """With alphas, text encoders and convolutions of every size."""
    pairs = loras.random_pairs(some(modules), seed=1, ranks=(4,))
    return loras.kohya(loras.weak(pairs, alpha=3.0), base)


def peft(modules: Modules, base: str) -> File:
    """Ranks of their own, no alphas."""
    pairs = loras.random_pairs(some(part(modules, "unet", "text_encoder")), seed=2)
    return loras.peft(loras.weak(pairs))


def configured(modules: Modules, base: str) -> File:
    """PEFT's configuration, with an alpha and a rank for each layer."""
    pairs = loras.random_pairs(some(part(modules, "unet")), seed=3)
    pairs = {n: loras.Pair(p.down, 0.1 * p.up, p.alpha) for n, p in pairs.items()}
    return loras.peft(pairs, config=loras.peft_config(pairs))


def middle(modules: Modules, base: str) -> File:
    pairs = loras.random_pairs(some(part(modules, "text_encoder")), seed=4, ranks=(3,))
    return loras.middle(loras.weak(pairs))


def other(modules: Modules, base: str) -> File:
    """Other layers of the UNet than `kohya` has, and the same of the texts."""
    pairs = loras.random_pairs(some(modules, 1), seed=7, ranks=(2,))
    return loras.kohya(loras.weak(pairs, alpha=1.0), base)


FILES = {"other": other, "kohya": kohya, "peft": peft, "configured": configured, "middle": middle}


@dataclass(frozen=True)
class Case:
    """LoRAs with their scales, beside adapters."""

    base: str
    scales: dict[str, float]
    picture: bool = False
    face: bool = False


CASES = {
    "half": Case("sd", {"kohya": 0.5}),
    "negative": Case("sd", {"peft": -0.7}),
    "two": Case("sd", {"configured": 0.8, "kohya": 0.6}),
    "text encoders": Case("sd", {"middle": 1.3}),
    "a picture": Case("sd", {"peft": 0.5}, picture=True),
    "a face": Case("sd", {"kohya": 0.9}, face=True),
    "xl": Case("xl", {"kohya": 0.5, "peft": -0.6}, picture=True),
}
MORE = {
    "two, each with the text encoder": Case("sd", {"kohya": 0.7, "other": -0.5}),
    "two of SDXL, each with both text encoders": Case("xl", {"kohya": 0.7, "other": -0.5}),
}


def folder_of(case: Case, workshop: Workshop) -> Path:
    return workshop.tiny_xl if case.base == "xl" else workshop.tiny


def file(case: Case, name: str, workshop: Workshop) -> Path:
    """A LoRA of the case's base, or the FaceID adapter."""
    if name == "faceid":
        tensors = adapters.face_tensors(models.UNET, name, rank=3)
        return workshop.made("LoRA/face.safetensors", lambda p: models.write_adapter(p, tensors))

    def write(path: Path) -> None:
        layers = loras.layers(diffusers_pipeline(folder_of(case, workshop)))
        loras.write(path, FILES[name](layers, {"sd": "sd", "xl": "sdxl"}[case.base]))

    return workshop.made(f"LoRA/{name}.v{case.base}.safetensors", write)


def files(case: Case, workshop: Workshop) -> list[Path]:
    names = [*case.scales, *(["faceid"] if case.face else [])]
    return [folder_of(case, workshop), *(file(case, name, workshop) for name in names)]


def theirs(case: Case, workshop: Workshop) -> Array:
    folder = folder_of(case, workshop)
    own = [folder / "linear.safetensors"] if case.picture else []
    own += [file(case, "faceid", workshop)] if case.face else []
    pipe: DiffusionPipeline = diffusers_pipeline(folder, own)
    weights = {"faceid_0": 1.0} if case.face else {}
    for name, scale in case.scales.items():
        with quiet():
            pipe.load_lora_weights(str(file(case, name, workshop)), adapter_name=name)
        weights[name] = scale
    pipe.set_adapters(list(weights), list(weights.values()))
    given: dict[str, Any] = {}
    if case.picture:
        given = {"images": [[workshop.references[0]]], "scale": 0.7}
    if case.face:
        rows = torch.from_numpy(identity()[None])
        given = {"embeds": [torch.stack([torch.zeros_like(rows), rows])], "scale": 0.7}
    return run_diffusers(pipe, "a star", **given, **SHARED)


def identity() -> np.ndarray:
    vector = np.random.default_rng(1).standard_normal(512)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def opened(case: Case, workshop: Workshop, backend: str) -> tuple[ipa.Pipeline, list[ImagePrompt]]:
    """A pipeline with all that the case loads, and the image prompts of its call."""
    folder = folder_of(case, workshop)
    pipe = workshop.pipeline(folder, backend)
    for lora, scale in case.scales.items():
        pipe.load_lora(file(case, lora, workshop), name=lora, scale=scale)
    prompts = []
    if case.picture:
        pipe.load_ip_adapter(folder / "linear.safetensors", name="linear")
        prompts = [ImagePrompt(workshop.references[0], scale=0.7)]
    if case.face:
        pipe.load_ip_adapter(file(case, "faceid", workshop), name="face")
        prompts = [ImagePrompt(face=identity(), scale=0.7)]
    return pipe, prompts


def ours(case: Case, workshop: Workshop, backend: str) -> Array:
    pipe, prompts = opened(case, workshop, backend)
    return pipe("a star", image_prompts=prompts, output_type="latent", **SHARED).latents


# Measured over all cases: torch 2.1e-6, mlx 2.9e-6.
SUITE = Suite("LoRA", CASES, theirs, ours, files, MORE)
