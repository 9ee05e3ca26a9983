"""LoRAs, schedulers and guidance as distilled models are used, all together, against diffusers.

The LoRAs are random: what is compared is everything but their training.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from PIL import Image

import ipa
from ipa.errors import CheckpointError
from ipa.model.unet import UNetSpec
from ipa.parity.capture.choice import Choice
from ipa.parity.compare.captures import compare
from ipa.parity.recording import capture
from ipa.pipeline.plan import make_plan
from ipa.pipeline.snapshot import Snapshot
from ipa.prepare.text.prompts import open_tokenizers
from ipa.request.request import Request
from ipa.sources.models import resolve_model
from ipa_torch.files.weights import quiet
from oracle import loras, models
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline, run_diffusers
from oracle.schedulers import diffusers_scheduler
from oracle.sealed import once

# Relative L2 of the final latents. Measured over all cases: torch 4.6e-7, mlx 5.7e-7.
LIMITS = {"torch": 2e-6, "mlx": 2e-6}
SHARED: dict[str, Any] = {"num_inference_steps": 3, "width": 48, "height": 32, "seed": 5}
# Layers that the LoRA of a base changes.
CHANGED = {"sd": ("attn2.to_q", "conv1"), "xl": ("attn1.to_k", "ff.net.2")}
# A network that takes the guidance scale; the odd width is padded.
LCM = models.Tiny(
    unet=models.UNET | {"time_cond_proj_dim": 17},
    scheduler=models.SCHEDULER | {"_class_name": "LCMScheduler"},
)
TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}


@dataclass(frozen=True)
class Case:
    """One run, with or without the LoRA of its base.

    `spacing` is an argument of ours, and of diffusers' scheduler.
    """

    base: str
    scheduler: str | None
    guidance_scale: float | None
    lora: float | None = 1.0
    picture: bool = False
    spacing: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


CASES = {
    "LCM-LoRA, guided": Case("sd", "lcm", 1.5),
    "LCM-LoRA": Case("sd", "lcm", 1.0, picture=True),
    "Hyper": Case("sd", "tcd", 0.0, 0.8, arguments={"eta": 0.7}),
    "Hyper in one step": Case(
        "sd", "lcm", 0.0, arguments={"timesteps": [800], "num_inference_steps": 1}
    ),
    "Lightning": Case("xl", "euler", 0.0, picture=True, spacing="trailing"),
    "Turbo": Case("turbo", None, 0.0, None, picture=True),
    "LCM, told its guidance": Case("lcm", None, 2.0, None, True, arguments={"num_images": 2}),
    "LCM, its usual guidance": Case("lcm", None, None, None),
}


@dataclass(frozen=True)
class Bases:
    """Folders of models, and a LoRA and an adapter for each."""

    folders: dict[str, Path]
    files: Path

    def lora(self, base: str) -> Path:
        return self.files / f"{base}.safetensors"

    def adapter(self, base: str) -> Path:
        return self.folders[base] / "linear.safetensors"


@pytest.fixture(scope="module")
def bases(tiny: Path, tiny_xl: Path, tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """SD and SDXL, an SD whose own sampler is Turbo's, and a latent consistency model."""
    root = tmp_path_factory.mktemp("distilled")
    turbo = shutil.copytree(tiny, root / "turbo")
    lcm = models.build_with_adapters(root / "lcm", LCM, seed=3)
    index = json.loads((lcm / "model_index.json").read_text())
    index["_class_name"] = "LatentConsistencyModelPipeline"
    (lcm / "model_index.json").write_text(json.dumps(index))
    for file, entry in (("scheduler/scheduler_config.json", TURBO), ("model_index.json", {})):
        config = json.loads((turbo / file).read_text()) | entry
        if "scheduler" in config:
            config["scheduler"] = ["diffusers", TURBO["_class_name"]]
        (turbo / file).write_text(json.dumps(config))
    return Bases({"sd": tiny, "xl": tiny_xl, "turbo": turbo, "lcm": lcm}, root)


@pytest.fixture(scope="module")
def stock(bases: Bases) -> Callable[[str], DiffusionPipeline]:
    """diffusers' pipeline of a base, with its LoRA and adapter."""

    @once
    def opened(base: str) -> DiffusionPipeline:
        pipe = diffusers_pipeline(bases.folders[base], [bases.adapter(base)])
        if base in CHANGED:
            modules = loras.only(loras.layers(pipe), CHANGED[base])
            unet = {place: module for place, module in modules.items() if place[0] == "unet"}
            pairs = loras.weak(loras.random_pairs(unet, seed=len(base)))
            loras.write(bases.lora(base), loras.peft(pairs))
            with quiet():
                pipe.load_lora_weights(str(bases.lora(base)), adapter_name="fast")
        return pipe

    return opened


def theirs(case: Case, pipe: DiffusionPipeline, picture: Image.Image) -> np.ndarray:
    own = pipe.scheduler
    config = dict(own.config) | ({"timestep_spacing": case.spacing} if case.spacing else {})
    if case.scheduler is not None:
        pipe.scheduler = diffusers_scheduler(case.scheduler, config)
    if case.lora is not None:
        pipe.set_adapters(["fast"], [case.lora])
    try:
        return run_diffusers(
            pipe,
            "a star",
            images=[[picture]],
            scale=0.7 if case.picture else 0.0,
            **({} if case.guidance_scale is None else {"guidance_scale": case.guidance_scale}),
            **(SHARED | case.arguments),
        )
    finally:
        pipe.scheduler = own


@pytest.fixture(scope="module")
def pipes(
    bases: Bases, open_pipeline: Callable[..., ipa.Pipeline]
) -> Callable[[str, str], ipa.Pipeline]:
    """Ours, likewise."""

    @once
    def opened(base: str, backend: str) -> ipa.Pipeline:
        pipe = open_pipeline(bases.folders[base], backend, "linear")
        if base in CHANGED:
            pipe.load_lora(bases.lora(base), name="fast", scale=0.5)
        return pipe

    return opened


@pytest.mark.parametrize("name", CASES)
def test_trajectory(
    name: str,
    stock: Callable[[str], DiffusionPipeline],
    pipes: Callable[[str, str], ipa.Pipeline],
    references: list[Image.Image],
) -> None:
    case = CASES[name]
    expected = theirs(case, stock(case.base), references[0])
    for backend, limit in LIMITS.items():
        prompts = [ipa.ImagePrompt(references[0], scale=0.7)] if case.picture else []
        call: dict[str, Any] = {
            "image_prompts": prompts,
            "scheduler": case.scheduler,
            "guidance_scale": case.guidance_scale,
            "timestep_spacing": case.spacing,
            "loras": {} if case.lora is None else {"fast": case.lora},
            "output_type": "latent",
            **(SHARED | case.arguments),
        }
        found = pipes(case.base, backend)("a star", **call).latents
        assert relative(found, expected) < limit


def test_what_has_no_effect_on_such_a_network_is_told(bases: Bases) -> None:
    model = resolve_model(bases.folders["lcm"])
    request = Request(negative_prompt="blurred", guidance_scale=6.0)
    loaded = Snapshot(model=model, tokenizers=open_tokenizers(model))
    plan = make_plan(request, loaded)
    assert not plan.guided and "negative_prompt has no effect" in " ".join(plan.warnings)
    assert make_plan(Request(), loaded).warnings == ()


def test_a_scale_needs_two_waves() -> None:
    with pytest.raises(CheckpointError, match="time_cond_proj_dim must be 4 or more; found: 3"):
        UNetSpec.from_config(models.UNET | {"time_cond_proj_dim": 3})


def test_the_timestep_is_watched_before_the_guidance_joins_it(bases: Bases) -> None:
    """The two are added before the first layer: the timestep's sinusoid is a stage by itself."""
    told = {}
    for backend in ("torch", "mlx"):
        pipe = ipa.load(bases.folders["lcm"], backend=backend, dtype="float32")
        chosen = Choice(patterns=("step.*/unet.time_*",))
        call = {"prompt": "a star", "guidance_scale": 4.0, **SHARED}
        told[backend] = capture(pipe, call, chosen)
    found = compare(told["torch"], told["mlx"])
    assert found.ok, found.verdict.sentence
    assert max(one.measures.relative_l2 for one in found.differences) < 2e-5
    assert "step.000/unet.time_proj" in told["mlx"].stages
