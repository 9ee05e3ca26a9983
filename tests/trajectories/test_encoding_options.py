"""What is done to pictures before the adapter: whole trajectories against diffusers' pipelines.

They are given what transformers' own towers say of pictures that PIL and torch prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import CLIPTokenizer

import ipa
from ipa import ImagePrompt
from oracle import models, trajectories
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline, run_diffusers

Open = Callable[..., ipa.Pipeline]
Pictures = list[Image.Image]
# Relative L2 of the final latents. Measured over all cases: torch 1.6e-6, mlx 2.1e-6.
LIMITS = {"torch": 4e-6, "mlx": 5e-6}
SHARED: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 4.0,
    "width": 96,
    "height": 64,
    "seed": 3,
}
SIDE, PATCHES = models.VISION["image_size"], 4
SLOPE = np.linspace(0.2, 1.0, 64, dtype=np.float32)[:, None].repeat(96, 1)
SHADE = np.tile(np.linspace(1, 0, 70, dtype=np.float32), (70, 1))
SHADE[:20] = 0


def pixels(theirs: DiffusionPipeline, pictures: Pictures) -> torch.Tensor:
    return theirs.feature_extractor(pictures, return_tensors="pt").pixel_values


def states(theirs: DiffusionPipeline, values: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return theirs.image_encoder(values, output_hidden_states=True).hidden_states[-2]


def run_with_states(theirs: DiffusionPipeline, embeds: torch.Tensor) -> np.ndarray:
    """diffusers' run with the states (N, T, C) of one adapter's pictures."""
    nothing = states(theirs, torch.zeros(1, 3, SIDE, SIDE)).expand_as(embeds)
    both = torch.stack([nothing, embeds])
    return run_diffusers(theirs, "a star", embeds=[both], scale=0.8, **SHARED)


def covered(columns: int, low: float, high: float) -> np.ndarray:
    """Which part of each column of a mask lies between two pixels of 72, by counting."""
    fine = (np.arange(columns * 72) + 0.5) / columns
    return ((fine > low) & (fine < high)).reshape(columns, 72).mean(axis=1)


def tiles(theirs: DiffusionPipeline, pictures: Pictures, mask: np.ndarray | None) -> np.ndarray:
    """A wide picture: 90 × 40 becomes 72 × 32 and three tiles that overlap by 12 pixels."""
    row = pictures[1].resize((90, 40)).resize((72, 32), Image.Resampling.LANCZOS)
    masks = np.stack([np.tile(covered(96, x, x + 32), (64, 1)) for x in (0, 20, 40)])
    masks = torch.from_numpy((masks if mask is None else masks * mask).astype(np.float32))
    return run_diffusers(
        theirs,
        "a star",
        images=[[row.crop((left, 0, left + 32, 32)) for left in (0, 20, 40)]],
        scale=[[0.8] * 3],
        cross_attention_kwargs={"ip_adapter_masks": [masks[None]]},
        **SHARED,
    )


def shaded(theirs: DiffusionPipeline, pictures: Pictures) -> np.ndarray:
    """Normalised pixels times the mask, which torch's antialiased cubic resizes as PIL's does."""
    small = functional.interpolate(
        torch.from_numpy(SHADE)[None, None], (SIDE, SIDE), mode="bicubic", antialias=True
    ).clamp(0, 1)
    seen = pixels(theirs, [pictures[2].resize((70, 70))]) * small
    return run_with_states(theirs, states(theirs, seen))


def pooled(theirs: DiffusionPipeline, picture: Image.Image, n: int) -> torch.Tensor:
    """Parts cut by PIL, encoded by transformers, pooled by torch."""
    part = picture.width // n
    corners = [(x * part, y * part) for y in range(n) for x in range(n)]
    crops = [picture.crop((x, y, x + part, y + part)) for x, y in corners]
    of_parts = states(theirs, pixels(theirs, crops))
    grid = of_parts[:, 1:].reshape(n, n, PATCHES, PATCHES, -1)
    merged = torch.cat([torch.cat(list(row), dim=1) for row in grid], dim=0).permute(2, 0, 1)
    patches = functional.adaptive_avg_pool2d(merged, PATCHES).flatten(1).T
    return torch.cat([of_parts[:, 0].mean(dim=0)[None], patches])


def closer(theirs: DiffusionPipeline, pictures: Pictures, n: int) -> np.ndarray:
    whole = states(theirs, pixels(theirs, pictures)) * 0.7
    parts = torch.stack([pooled(theirs, picture, n) for picture in pictures])
    one = len(pictures) == 1
    return run_with_states(theirs, torch.cat([whole, parts]) if one else whole + parts * 0.3)


def odd(pictures: Pictures) -> Pictures:
    return [picture.resize((61, 61)) for picture in pictures]


Make = Callable[[DiffusionPipeline, Pictures], np.ndarray]
# What diffusers does, and the image prompt that is to do the same.
CASES: dict[str, tuple[Make, Callable[[Pictures], ImagePrompt]]] = {
    "tiles": (
        lambda theirs, p: tiles(theirs, p, None),
        lambda p: ImagePrompt(p[1].resize((90, 40)), scale=0.8, fit="tile"),
    ),
    "tiles with a mask": (
        lambda theirs, p: tiles(theirs, p, SLOPE),
        lambda p: ImagePrompt(p[1].resize((90, 40)), scale=0.8, fit="tile", mask=SLOPE),
    ),
    "mask on a picture": (
        shaded,
        lambda p: ImagePrompt(p[2].resize((70, 70)), scale=0.8, encoder_mask=SHADE),
    ),
    "closer look": (
        lambda theirs, p: closer(theirs, odd(p[:1]), 3),
        lambda p: ImagePrompt(odd(p[:1]), scale=0.8, enhance_tiles=3, enhance_ratio=0.7),
    ),
    "closer look at two": (
        lambda theirs, p: closer(theirs, odd(p[:2]), 2),
        lambda p: ImagePrompt(odd(p[:2]), scale=0.8, enhance_tiles=2, enhance_ratio=0.7),
    ),
}


@pytest.fixture(scope="module")
def expected(tiny: Path, references: Pictures) -> Callable[[str], np.ndarray]:
    theirs = diffusers_pipeline(tiny, [tiny / "plus.safetensors"])
    return trajectories.once(lambda name: CASES[name][0](theirs, references))


@pytest.fixture(scope="module")
def pipe(tiny: Path, backend: str, open_pipeline: Open) -> ipa.Pipeline:
    return open_pipeline(tiny, backend, "plus")


def run(pipe: ipa.Pipeline, prompt: ImagePrompt) -> np.ndarray:
    return pipe("a star", image_prompts=prompt, output_type="latent", **SHARED).latents


@pytest.mark.parametrize("name", CASES)
def test_pictures(
    name: str,
    backend: str,
    pipe: ipa.Pipeline,
    expected: Callable[[str], np.ndarray],
    references: Pictures,
) -> None:
    prompt = CASES[name][1](references)
    assert relative(run(pipe, prompt), expected(name)) < LIMITS[backend]
    assert relative(run(pipe, ImagePrompt(prompt.image, scale=0.8)), expected(name)) > 1e-3


TEXTS = ("a cat", "a red star and a blue ring " * 30)


@pytest.fixture(scope="module")
def joint_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL's kind with an image encoder as wide as the second text encoder's projection."""
    vision = models.VISION | {"projection_dim": models.SECOND_TEXT["projection_dim"]}
    tiny = models.Tiny(unet=models.XL_UNET, second_text=models.SECOND_TEXT, vision=vision)
    return models.build_with_adapters(tmp_path_factory.mktemp("joint"), tiny, seed=9)


@pytest.fixture(scope="module")
def without(joint_xl: Path, references: Pictures) -> Callable[[str], np.ndarray]:
    """diffusers is given the image embeds less its own pooled text, times the scale."""
    theirs = diffusers_pipeline(joint_xl, [joint_xl / "linear.safetensors"])

    def run(text: str) -> np.ndarray:
        with torch.no_grad():
            less = 0.6 * theirs.encode_prompt(text, do_classifier_free_guidance=False)[2]
            embeds = theirs.image_encoder(pixels(theirs, references[:2])).image_embeds - less
        both = torch.stack([torch.zeros_like(embeds), embeds])
        return run_diffusers(theirs, "a star", embeds=[both], scale=0.8, **SHARED)

    return trajectories.once(run)


def test_a_text_taken_away(
    backend: str,
    joint_xl: Path,
    without: Callable[[str], np.ndarray],
    open_pipeline: Open,
    references: Pictures,
) -> None:
    pipe, pictures = open_pipeline(joint_xl, backend, "linear"), references[:2]
    plain = pipe.encode_image_prompt(pictures)
    for text in TEXTS:
        options: Any = {"neg_content_prompt": text, "neg_content_scale": 0.6}
        prompt = ImagePrompt(pictures, scale=0.8, **options)
        result = pipe("a star", image_prompts=prompt, output_type="latent", **SHARED)
        assert relative(result.latents, without(text)) < LIMITS[backend]
        kept = pipe.encode_image_prompt(pictures, **options)
        later = pipe.encode_image_prompt(plain, **options)
        assert np.array_equal(later.conditional, kept.conditional)
        assert np.array_equal(kept.unconditional, plain.unconditional)
    assert np.array_equal(run(pipe, ImagePrompt(kept, scale=0.8)), result.latents)
    assert relative(plain.conditional, kept.conditional) > 0.1
    (warning,) = result.info["warnings"]
    assert "neg_content_prompt is too long; this was cut" in warning
    asked = result.info["request"]["image_prompts"][0]
    assert (asked["neg_content_prompt"], asked["neg_content_scale"]) == (TEXTS[1], 0.6)
    none = ImagePrompt(pictures, scale=0.8, neg_content_prompt="a cat", neg_content_scale=0)
    assert np.array_equal(run(pipe, none), run(pipe, ImagePrompt(plain, scale=0.8)))


def test_a_learned_word_taken_away(
    backend: str, joint_xl: Path, open_pipeline: Open, references: Pictures, tmp_path: Path
) -> None:
    """With the embeddings of a word's own tokens it is that word, to the bit."""
    pipe = open_pipeline(joint_xl, backend, "linear")
    words = {}
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        ids = CLIPTokenizer.from_pretrained(joint_xl / f"tokenizer{suffix}")("cat").input_ids
        tensors = load_file(joint_xl / f"text_encoder{suffix}" / "model.safetensors")
        (table,) = (t for key, t in tensors.items() if key.endswith("token_embedding.weight"))
        words[name] = table[ids[1:-1]]
    save_file(words, tmp_path / "cat.safetensors")
    pipe.load_textual_inversion(tmp_path / "cat.safetensors", "<c>")
    given = [
        pipe.encode_image_prompt(references[0], neg_content_prompt=text).conditional
        for text in ("a cat", "a <c>", "a dog")
    ]
    assert np.array_equal(given[0], given[1]) and not np.array_equal(given[0], given[2])
