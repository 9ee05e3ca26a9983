"""LoRAs: whole trajectories of diffusers' pipelines with load_lora_weights and set_adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ipa
from oracle import loras
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline, run_diffusers
from oracle.runs.loras import CASES, SHARED, SUITE, opened, some
from oracle.workshop import Workshop


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("name", CASES)
def test_trajectories(name: str, workshop: Workshop) -> None:
    case = CASES[name]
    expected = SUITE.expected(case, workshop)
    for backend, limit in SUITE.limits.items():
        pipe, prompts = opened(case, workshop, backend)
        call = {**SHARED, "image_prompts": prompts, "output_type": "latent"}
        assert relative(pipe("a star", **call).latents, expected) < limit
        without = pipe("a star", loras=dict.fromkeys(case.scales, 0.0), **call).latents
        assert relative(without, expected) > 1e-3


def test_alphas_of_their_own(
    tiny: Path, tmp_path: Path, open_pipeline: Callable[..., ipa.Pipeline]
) -> None:
    """diffusers forgets those of kohya's, so the judge is it with weights to which they are added.

    The formula is float64's (`oracle.loras.Pair.delta`).
    """
    stock = diffusers_pipeline(tiny)
    modules = loras.layers(stock)
    pairs = loras.random_pairs(some(modules), seed=6)
    pairs = {n: loras.Pair(p.down, 0.1 * p.up, p.alpha) for n, p in pairs.items()}
    path = loras.write(tmp_path / "a.safetensors", loras.kohya(pairs, "sd"))
    with torch.no_grad():
        for place, pair in pairs.items():
            weight = modules[place].weight
            weight.copy_((weight.double() + 0.8 * pair.delta).float())
    expected = run_diffusers(stock, "a star", **SHARED)
    for backend, limit in SUITE.limits.items():
        pipe = open_pipeline(tiny, backend)
        pipe.load_lora(path, scale=0.8)
        found = pipe("a star", output_type="latent", **SHARED).latents
        assert relative(found, expected) < limit
