"""Every way to steer at once: both backends agree, whatever stands beside what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import ImagePrompt
from ipa.parity.pytest_plugin import Parity

LEFT = np.tile(np.arange(64) < 32, (64, 1))


def steer(pipe: Any, references: list[Image.Image]) -> np.ndarray:
    """Latents of one call with embeds, masks, curves, layers, negatives, fits and a callback."""
    a, b, c, *_ = references
    embeds = pipe.encode_image_prompt([a, b], adapter="linear")
    prompts = [
        ImagePrompt(
            [a, c.resize((80, 40))],
            adapter="plus",
            scale=[0.9, {"down": 0.4, "up": 0.7}],
            mask=[LEFT, ~LEFT],
            layers="ease in",
            curve="fade_out",
            fit="pad",
        ),
        ImagePrompt(embeds.combine("average", [0.7, 0.3]), adapter="linear", negative=c, end=0.8),
        ImagePrompt(b, adapter="full", scale=0.3, negative="noise", sharpen=0.4, mask=LEFT),
    ]
    return pipe(
        "a star",
        negative_prompt="a circle",
        image_prompts=prompts,
        weights=lambda step, steps: {"full": 1.0 - step / steps, 1: 0.9},
        num_inference_steps=4,
        guidance_scale=3,
        num_images=2,
        seed=5,
        width=64,
        height=64,
        output_type="latent",
    ).latents


@pytest.mark.parametrize("kind", ["tiny", "tiny_xl"])
def test_both_backends_agree(
    kind: str,
    request: pytest.FixtureRequest,
    open_pipeline: Any,
    references: list[Image.Image],
    parity: Parity,
) -> None:
    folder: Path = request.getfixturevalue(kind)
    found, expected = (
        steer(open_pipeline(folder, backend, "linear", "plus", "full"), references)
        for backend in ("mlx", "torch")
    )
    parity.assert_close(expected, found, "everything.toml")
