"""Lists of prompts against diffusers' own pipelines: all pictures for every prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ipa
from oracle import trajectories
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline, run_diffusers

# Relative L2 of the final latents: measured 1.3e-6 (torch), 1.5e-6 (mlx).
LIMITS = {"torch": 3e-6, "mlx": 5e-6}
CALL: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 4.0,
    "width": 64,
    "height": 48,
    "seed": 3,
    "num_images": 2,
    "negative_prompt": ["a blue circle", ""],
}
TEXTS = ["a red star", "a ring"]
# Model, sampler, and whether the noise is given. Otherwise picture number p of all starts from the
# generator of seed + p, which the ancestral sampler draws from in every step.
CASES = {
    "latents given": ("tiny", None, True),
    "seeds": ("tiny", "euler_ancestral", False),
    "latents given, XL": ("tiny_xl", None, True),
}


@pytest.fixture(scope="module")
def expected(request: pytest.FixtureRequest, references: list) -> Callable[[str], np.ndarray]:
    def run(name: str) -> np.ndarray:
        model, scheduler, is_given = CASES[name]
        folder = Path(request.getfixturevalue(model))
        pipe = diffusers_pipeline(folder, [folder / "linear.safetensors"])
        noise = {"latents": torch.from_numpy(latents())} if is_given else {}
        images = [references[:2]]
        call = CALL | {"scheduler": scheduler}
        return run_diffusers(pipe, TEXTS, images=images, scale=0.8, **call, **noise)

    return trajectories.once(run)


def latents() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((4, 4, 6, 8)).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_two_prompts(
    name: str,
    backend: str,
    request: pytest.FixtureRequest,
    references: list,
    expected: Callable[[str], np.ndarray],
    open_pipeline: Callable[..., ipa.Pipeline],
) -> None:
    model, scheduler, is_given = CASES[name]
    pipe = open_pipeline(Path(request.getfixturevalue(model)), backend, "linear")
    pipe.set_ip_adapter_scale(0.8)
    call = CALL | {"scheduler": scheduler, "latents": latents() if is_given else None}
    found = pipe(TEXTS, ip_adapter_image=[references[:2]], output_type="latent", **call).latents
    theirs = expected(name)
    assert relative(found, theirs) < LIMITS[backend]
    assert relative(found, np.concatenate([theirs[2:], theirs[:2]])) > 0.1
