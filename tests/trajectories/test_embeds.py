"""Embeds that go from here to diffusers, and from there to here: the same trajectories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ipa
from ipa import ImagePrompt
from ipa.prepare.image_prompts.ipadpt import write_ipadpt
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline, run_diffusers

# Relative L2 of the final latents. Measured over all cases: torch 1.4e-6, mlx 1.7e-6.
LIMITS = {"torch": 1e-5, "mlx": 1e-4}
SHARED: dict[str, Any] = {
    "num_inference_steps": 2,
    "width": 64,
    "height": 48,
    "seed": 3,
}
Open = Callable[..., ipa.Pipeline]


@pytest.mark.parametrize("guidance", [4.0, 1.0])
@pytest.mark.parametrize("kind", ["linear", "plus", "full"])
def test_theirs_with_our_embeds(
    kind: str,
    guidance: float,
    tiny: Path,
    backend: str,
    open_pipeline: Open,
    references: list[Image.Image],
    tmp_path: Path,
) -> None:
    """diffusers, given our file, does what we do; whatever the features: also what is combined."""
    pipe = open_pipeline(tiny, backend, kind)
    theirs = diffusers_pipeline(tiny, [tiny / f"{kind}.safetensors"])
    plain = pipe.encode_image_prompt(references[:2])
    steered = pipe.encode_image_prompt(references[:2], negative=references[3])
    for embeds in (plain, plain.combine("subtract"), steered.combine("average")):
        write_ipadpt(embeds, tmp_path / "x.ipadpt", guided=guidance > 1)
        given = torch.load(tmp_path / "x.ipadpt", weights_only=True)
        arguments = SHARED | {"guidance_scale": guidance}
        wanted = run_diffusers(theirs, "a star", embeds=given, scale=0.8, **arguments)
        prompt = ImagePrompt(embeds, scale=0.8)
        found = pipe("a star", image_prompts=prompt, output_type="latent", **arguments).latents
        assert relative(found, wanted) < LIMITS[backend]


@pytest.mark.parametrize("guided", [True, False])
def test_ours_with_their_embeds(
    guided: bool,
    tiny: Path,
    backend: str,
    open_pipeline: Open,
    references: list[Image.Image],
    tmp_path: Path,
) -> None:
    """What diffusers' documentation saves: the embeds of two adapters, in a list."""
    kinds, pictures = ("linear", "plus"), [references[0], [references[1], references[2]]]
    theirs = diffusers_pipeline(tiny, [tiny / f"{kind}.safetensors" for kind in kinds])
    with torch.no_grad():
        saved = theirs.prepare_ip_adapter_image_embeds(pictures, None, "cpu", 1, guided)
    torch.save(saved, tmp_path / "x.ipadpt")
    arguments = SHARED | {"guidance_scale": 4.0 if guided else 1.0}
    wanted = run_diffusers(theirs, "a star", images=pictures, scale=[0.7, 0.4], **arguments)
    pipe = open_pipeline(tiny, backend, *kinds)
    prompts = [
        ImagePrompt(
            pipe.load_image_embeds(tmp_path / "x.ipadpt", adapter=kind), adapter=kind, scale=scale
        )
        for kind, scale in zip(kinds, (0.7, 0.4), strict=True)
    ]
    found = pipe("a star", image_prompts=prompts, output_type="latent", **arguments).latents
    assert relative(found, wanted) < LIMITS[backend]


def test_what_is_saved_is_what_theirs_prepares(
    tiny: Path, open_pipeline: Open, references: list[Image.Image], tmp_path: Path
) -> None:
    """Number for number, on the reference, one picture at a time."""
    pipe = open_pipeline(tiny, "torch", "linear", "plus", "full")
    for kind in ("linear", "plus", "full"):
        theirs = diffusers_pipeline(tiny, [tiny / f"{kind}.safetensors"])
        with torch.no_grad():
            (wanted,) = theirs.prepare_ip_adapter_image_embeds(
                [references[0]], None, "cpu", 1, True
            )
        embeds = pipe.encode_image_prompt(references[0], adapter=kind)
        assert np.array_equal(embeds.to_diffusers(), wanted.numpy())
        assert np.array_equal(embeds.to_diffusers(guided=False), wanted.numpy()[1:])
