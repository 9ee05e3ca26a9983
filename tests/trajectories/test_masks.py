"""Whole trajectories with masks against diffusers' own pipelines and their ip_adapter_masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image, ImageDraw

import ipa
from ipa import ImagePrompt
from oracle import trajectories
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline, run_diffusers
from oracle.runs.masks import CASES, SHARED, SUITE, run
from oracle.workshop import Workshop

Open = Callable[..., ipa.Pipeline]


@pytest.fixture(scope="module")
def expected(workshop: Workshop) -> Callable[[str], np.ndarray]:
    return trajectories.once(lambda name: SUITE.expected(CASES[name], workshop))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:The aspect ratio of the mask")
def test_trajectory(
    name: str, backend: str, workshop: Workshop, expected: Callable[[str], np.ndarray]
) -> None:
    result = run(CASES[name], workshop, backend)
    assert relative(result.latents, expected(name)) < SUITE.limits[backend]
    warned = [text for text in result.info["warnings"] if "masks" in text]
    assert len(warned) == ("guesses wrong" in name)


def test_drawn_masks_as_people_prepare_them(
    backend: str, tiny: Path, references: list[Image.Image], open_pipeline: Open
) -> None:
    """A drawing through diffusers' IPAdapterMaskProcessor; the same file given to us."""
    drawing = Image.new("RGB", (96, 64))
    ImageDraw.Draw(drawing).ellipse((8, 8, 70, 50), fill="white")
    pipe = diffusers_pipeline(tiny, [tiny / "plus.safetensors"])
    theirs = run_diffusers(
        pipe,
        "a star",
        images=[references[2]],
        scale=0.8,
        cross_attention_kwargs={
            "ip_adapter_masks": [IPAdapterMaskProcessor().preprocess(drawing, 64, 96)]
        },
        **SHARED,
    )
    own = open_pipeline(tiny, backend, "plus")
    prompt = ImagePrompt(references[2], scale=0.8, mask=drawing)
    found = own("a star", image_prompts=prompt, output_type="latent", **SHARED).latents
    assert relative(found, theirs) < SUITE.limits[backend]
