"""Trajectories with weights that change, final pictures, and what is equal to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline, run_diffusers
from oracle.runs.image_prompts import LONG, MODELS, SHARED, SUITE
from oracle.runs.suite import folder_of
from oracle.workshop import Workshop


@pytest.mark.parametrize("name", ["deep", "odd"])
@pytest.mark.parametrize(
    "saving",
    [
        {},
        {"cache_interval": 2, "cache_branch": 4},
        {"forecast": True, "forecast_warmup": 2},
    ],
    ids=["all steps", "reuse", "forecast"],
)
def test_weights_over_the_steps(
    name: str,
    saving: dict[str, Any],
    backend: str,
    workshop: Workshop,
    references: list[Image.Image],
) -> None:
    """diffusers' way is a callback that sets new scales between steps."""
    factors = [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    folder = folder_of(SUITE.title, MODELS, name, workshop)
    blocks = {"mid": 0.5, "up": 0.75, "down": {"block_2": [0.25, 1.0]}}

    def at(step: int) -> dict[str, Any]:
        down = [factors[step] * value for value in blocks["down"]["block_2"]]
        rest = {part: factors[step] * blocks[part] for part in ("mid", "up")}
        return rest | {"down": {"block_2": down}}

    def change(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe.set_ip_adapter_scale(at(min(step + 1, 5)))
        return tensors

    theirs = run_diffusers(
        diffusers_pipeline(folder, [folder / "linear.safetensors"]),
        "a star",
        images=[[references[2]]],
        scale=at(0),
        callback_on_step_end=change,
        **(SHARED | LONG | saving),
    )
    pipe = workshop.pipeline(folder, backend, "linear")
    call = SHARED | LONG | saving | {"output_type": "latent"}
    curve = [(0.0, 1.0), (4 / 6, 0.0)]
    prompts = ipa.ImagePrompt(references[2], scale=blocks, curve=curve)
    assert (
        relative(pipe("a star", image_prompts=prompts, **call).latents, theirs)
        < SUITE.limits[backend]
    )
    prompts = ipa.ImagePrompt(references[2], scale=blocks)
    weights = dict(enumerate(factors))
    found = pipe(
        "a star", image_prompts=prompts, weights=lambda step, _: {0: weights[step]}, **call
    )
    assert relative(found.latents, theirs) < SUITE.limits[backend]
    assert relative(pipe("a star", image_prompts=prompts, **call).latents, theirs) > 1e-3


def test_pictures_are_the_same(
    backend: str,
    tiny: Path,
    references: list[Image.Image],
    open_pipeline: Callable[..., ipa.Pipeline],
) -> None:
    """The final picture of a seed, 8-bit: diffusers' with torch's generator, and ours."""
    call = SHARED | LONG
    pipe = diffusers_pipeline(tiny, [tiny / "linear.safetensors"])
    theirs = run_diffusers(
        pipe, "a star", images=[references[0]], scale=0.8, output_type="np", **call
    )
    ours = open_pipeline(tiny, backend, "linear")
    ours.set_ip_adapter_scale(0.8)
    found = ours("a star", ip_adapter_image=references[0], output_type="np", **call).images
    # Largest difference of a value in [0, 1]: measured 4e-6 (mlx), 3e-6 (torch).
    assert np.abs(found - theirs).max() < 2e-5
    # A value on the edge of two may fall to either: measured 0 and 1 of 9216, on two processors.
    assert np.count_nonzero(np.round(found * 255) != np.round(theirs * 255)) <= 4


def test_switching_adapters_off_is_stock_diffusers_to_the_bit(
    tiny: Path, references: list[Image.Image], open_pipeline: Callable[..., ipa.Pipeline]
) -> None:
    """Our attention processor without image prompts computes what diffusers' own does.

    Euler's rows differ from diffusers' order of operations in the last bit, so this compares one
    evaluation: a single DDIM step from the same noise.
    """
    stock = run_diffusers(
        diffusers_pipeline(tiny), "a star", **(SHARED | {"num_inference_steps": 1})
    )
    pipe = open_pipeline(tiny, "torch", "linear")
    found = pipe(
        "a star",
        ip_adapter_image=references[0],
        output_type="latent",
        **(SHARED | {"num_inference_steps": 1}),
    )
    assert not np.allclose(found.latents, stock)
    pipe.set_ip_adapter_scale(0.0)
    off = pipe(
        "a star",
        ip_adapter_image=references[0],
        output_type="latent",
        **(SHARED | {"num_inference_steps": 1}),
    )
    assert relative(off.latents, stock) < 1e-6
