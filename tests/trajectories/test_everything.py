"""Everything at once: adapters with masks, a ControlNet, a LoRA, inpainting, and a sampler of two.

No other program does all of it in one run, so the reference judges MLX; each part by itself is held
to diffusers elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import Control, ImagePrompt
from ipa.parity.pytest_plugin import Parity
from oracle import controlled, loras, models
from oracle.pipelines import diffusers_pipeline

SIDE = 64
LEFT = np.tile(np.arange(SIDE) < SIDE // 2, (SIDE, 1))


@pytest.fixture(scope="module")
def beside(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A ControlNet and a LoRA for the tiny model."""
    root = tmp_path_factory.mktemp("beside")
    controlled.write_controlnet(root / "net", models.UNET, seed=3)
    pairs = loras.weak(loras.random_pairs(loras.layers(diffusers_pipeline(tiny)), seed=4))
    return root / "net", loras.write(root / "lora.safetensors", loras.kohya(pairs, "sd"))


def everything(pipe: ipa.Pipeline, files: tuple[Path, Path], pictures: list[Image.Image]) -> Any:
    net, lora = files
    pipe.load_controlnet(net, name="net")
    pipe.load_lora(lora, name="lora", scale=0.6)
    a, b, c, d = (picture.resize((SIDE, SIDE)) for picture in pictures[:4])
    return pipe(
        "a (red:1.2) star",
        prompt_syntax="a1111",
        negative_prompt="a circle",
        image_prompts=[
            ImagePrompt(a, adapter="plus", scale=0.7, mask=LEFT, curve="fade_out"),
            ImagePrompt([b, c], adapter="linear", scale=0.5, mask=~LEFT, layers="ease in"),
        ],
        controls=[Control(c, name="net", scale=0.8, end=0.9)],
        image=d,
        mask_image=LEFT,
        strength=1.0,
        scheduler="unipc",
        num_inference_steps=8,
        guidance_scale=4,
        guidance_rescale=0.3,
        num_images=2,
        seed=3,
        influence=True,
        preview="latent",
        output_type="latent",
    )


def test_both_backends_agree(
    tiny: Path,
    beside: tuple[Path, Path],
    open_pipeline: Any,
    references: list[Image.Image],
    parity: Parity,
) -> None:
    found, expected = (
        everything(open_pipeline(tiny, backend, "linear", "plus"), beside, references)
        for backend in ("mlx", "torch")
    )
    parity.assert_close(expected.latents, found.latents, "everything.toml")
    for side in (found, expected):
        assert side.influence.steps == 8
        assert [p["adapter"] for p in side.info["request"]["image_prompts"]] == ["plus", "linear"]
