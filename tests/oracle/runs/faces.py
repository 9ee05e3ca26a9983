"""FaceID, FaceID-Plus, its version 2, Portrait and unnorm: whole runs of diffusers.

Identities are random vectors; diffusers is given them as its documentation says, and for
FaceID-Plus the hidden states of a picture besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from ipa import ImagePrompt
from oracle import adapters, models
from oracle.pipelines import diffusers_pipeline, run_diffusers
from oracle.runs.suite import Array, Suite
from oracle.workshop import Pictures, Workshop

SHARED: dict[str, Any] = {
    "num_inference_steps": 2,
    "width": 64,
    "height": 48,
    "guidance_scale": 4.0,
    "seed": 5,
}
CONFIGS = {"sd": models.UNET, "xl": models.XL_UNET}
STATES = models.VISION["hidden_size"]


@dataclass(frozen=True)
class Kind:
    """A file and what its adapter is called; `raw` are identities as the network gives them."""

    structure: str
    kind: str | None = None
    rank: int = 0
    tokens: int = 4
    raw: bool = False

    @property
    def sees(self) -> bool:
        return self.structure == "faceid_plus"


KINDS = {
    "faceid": Kind("faceid", rank=3),
    "faceid again": Kind("faceid", rank=2),
    "plus": Kind("faceid_plus", "faceid-plus", rank=3),
    "plusv2": Kind("faceid_plus", "faceid-plusv2", rank=3),
    "portrait": Kind("faceid", tokens=16),
    "unnorm": Kind("resampler", "faceid-portrait-unnorm", tokens=5, raw=True),
}


@dataclass(frozen=True)
class Case:
    """Adapters in order, each with as many faces as `counts` says."""

    base: str
    names: tuple[str, ...]
    counts: tuple[int, ...] = (1,)
    scales: tuple[float, ...] = (0.8,)
    shortcut_scale: float | None = None
    lora_scale: float = 1.0
    profile: str | None = None

    @property
    def kinds(self) -> list[Kind]:
        return [KINDS[name] for name in self.names]


CASES = {
    "faceid": Case("sd", ("faceid",)),
    "faceid xl": Case("xl", ("faceid",)),
    "weak lora": Case("sd", ("faceid",), lora_scale=0.4),
    "two faces": Case("sd", ("faceid",), (2,)),
    "plus": Case("sd", ("plus",)),
    "plusv2": Case("sd", ("plusv2",)),
    "plusv2 xl": Case("xl", ("plusv2",), shortcut_scale=0.6),
    "plusv2 of two": Case("sd", ("plusv2",), (2,), shortcut_scale=1.7),
    "portrait": Case("sd", ("portrait",), (3,)),
    "portrait xl": Case("xl", ("portrait",), (2,)),
    "unnorm xl": Case("xl", ("unnorm",), (2,)),
    "two adapters": Case("sd", ("faceid", "plusv2"), (1, 1), (0.8, 0.5)),
    "two loras": Case("xl", ("faceid", "faceid again"), (1, 1), (0.8, 0.5), lora_scale=0.7),
}


def _place(case: Case, workshop: Workshop) -> tuple[Path, dict[str, Path]]:
    """The case's model, and its adapters by name, every tensor with values of its own."""
    folder = workshop.tiny_xl if case.base == "xl" else workshop.tiny
    files = {
        name: workshop.made(
            f"faces/{case.base} {name}.safetensors",
            lambda path, name=name: models.write_adapter(path, _tensors(case.base, name)),
        )
        for name in case.names
    }
    return folder, files


def files(case: Case, workshop: Workshop) -> list[Path]:
    folder, adapters = _place(case, workshop)
    return [folder, *adapters.values()]


def _tensors(base: str, name: str) -> dict[str, torch.Tensor]:
    config, kind = CONFIGS[base], KINDS[name]
    seed = 10 * list(CONFIGS).index(base) + list(KINDS).index(name)
    if kind.structure == "resampler":
        sites, context = models.unet_sites(config), config["cross_attention_dim"]
        return models.adapter_tensors(
            "resampler", sites=sites, context=context, feature=512, tokens=kind.tokens, seed=seed
        )
    return adapters.face_tensors(
        config, kind.structure, rank=kind.rank, tokens=kind.tokens, states=STATES, seed=seed
    )


def identities(kind: Kind, count: int) -> np.ndarray:
    """(count, 512) of length 1, or as long as ArcFace's are."""
    rows = np.random.default_rng(count + kind.tokens).standard_normal((count, 512))
    length = 1.0 if not kind.raw else 20.0
    return (length * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def theirs(case: Case, workshop: Workshop) -> Array:
    folder, files = _place(case, workshop)
    pipe = diffusers_pipeline(folder, [files[name] for name in case.names])
    projections = pipe.unet.encoder_hid_proj.image_projection_layers
    embeds = []
    for kind, count, projection in zip(case.kinds, case.counts, projections, strict=True):
        rows = torch.from_numpy(identities(kind, count))
        if kind.structure == "resampler":
            rows = rows[:, None]  # the one state of each face
        embeds.append(torch.stack([torch.zeros_like(rows), rows]))
        if kind.sees:
            projection.clip_embeds = _seen(pipe, workshop.references[:count])
            projection.shortcut = kind.kind == "faceid-plusv2"
            projection.shortcut_scale = case.shortcut_scale or 1.0
    with_lora = [f"faceid_{n}" for n, kind in enumerate(case.kinds) if kind.rank]
    if with_lora:  # loading the second has put the first out
        pipe.set_adapters(with_lora, adapter_weights=[case.lora_scale] * len(with_lora))
    return run_diffusers(pipe, "a star", embeds=embeds, scale=list(case.scales), **SHARED)


def _seen(pipe: DiffusionPipeline, pictures: Pictures) -> torch.Tensor:
    """(2, N, T, C): states of nothing and of pictures, as prepare_ip_adapter_image_embeds does."""
    with torch.no_grad():
        pairs = [pipe.encode_image(picture, "cpu", 1, True) for picture in pictures]
    return torch.stack(
        [torch.cat([nothing for _, nothing in pairs]), torch.cat([p for p, _ in pairs])]
    )


def ours(case: Case, workshop: Workshop, backend: str) -> Array:
    folder, files = _place(case, workshop)
    pipe = workshop.pipeline(folder, backend)
    prompts = []
    for rank, (name, kind, count) in enumerate(
        zip(case.names, case.kinds, case.counts, strict=True)
    ):
        pipe.load_ip_adapter(files[name], name=name, kind=kind.kind, lora_scale=case.lora_scale)
        has_shortcut = kind.kind == "faceid-plusv2"
        prompts.append(
            ImagePrompt(
                workshop.references[:count] if kind.sees else None,
                adapter=name,
                face=identities(kind, count),
                scale=case.scales[rank],
                shortcut_scale=case.shortcut_scale if has_shortcut else None,
            )
        )
    call = SHARED | ({"profile": case.profile, "negative_prompt": ""} if case.profile else {})
    return pipe("a star", image_prompts=prompts, output_type="latent", **call).latents


AT_ZERO = {
    "tencent": Case("sd", ("faceid",), scales=(0.0,), profile="tencent"),
    "diffusers": Case("sd", ("plus",), scales=(0.0,), profile="diffusers"),
    "comfyui": Case("sd", ("faceid",), scales=(0.0,), lora_scale=0.6, profile="comfyui"),
}
"""The LoRA alone, as it stays on in all three programs."""

# Measured over all cases: torch 2.9e-6, mlx 4.2e-6.
SUITE = Suite("Faces", CASES, theirs, ours, files)
