"""Masks by the rules of diffusers' processor and of ComfyUI, against diffusers' code and torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ipa.prepare.scaling.masks import (
    MASK_RULES,
    Canvas,
    bilinear,
    binarised,
    downsample,
    latent_mask,
)
from ipa.request.masks import mask_values
from oracle import comfyui
from oracle.places import LINEAR_SLOPE, leeway

# Largest difference to torch's float32 over 3000 draws, on values up to 1, beyond the leeway of
# places: measured 1.8e-7; of the bicubic rules as in test_masks.
LINEAR, CUBIC = 5e-7, 4e-6

side = st.integers(1, 200)


def canvas(width: int, height: int, *factors: int) -> Canvas:
    """A picture with latents of an eighth, and a site for each factor below them."""
    latents = (height // 8, width // 8)
    grids = tuple((-(-latents[0] // f), -(-latents[1] // f)) for f in factors or (1, 2, 4))
    return Canvas(width, height, grids, latents)


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, height, width)).random((height, width), np.float32)


@settings(max_examples=200, deadline=None)
@given(side, side, side, side, st.integers(1, 5000), st.integers(0, 99))
def test_latent_grid_is_comfyuis(
    height: int, width: int, rows: int, columns: int, queries: int, seed: int
) -> None:
    """Any mask over any latents: padded or cut on both sides where the grid does not fit."""
    mask = drawn(height, width, seed)
    found = latent_mask(mask, queries, (rows, columns))
    assert (found.dtype, found.shape) == (np.float32, (queries,))
    if not 1 <= int(rows / math.sqrt(rows * columns / queries)) <= queries:
        return  # ComfyUI divides by zero, or resamples to nothing
    grid = comfyui.mask_grid(queries, (rows, columns))
    spare = comfyui.laid_out(leeway(mask.shape, grid, LINEAR_SLOPE), queries)
    expected = comfyui.mask(mask, queries, (rows, columns))
    assert (np.abs(found - expected) < LINEAR + spare).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 16), st.integers(1, 12), st.sampled_from((1, 2, 4, 8)), st.integers(0, 99))
def test_bilinear_is_torchs_in_double_precision(
    rows: int, columns: int, factor: int, seed: int
) -> None:
    """Where positions are exact in float32, nothing is left but the last rounding."""
    mask = drawn(rows * factor, columns * factor, seed)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(mask).double()[None, None], size=(rows, columns), mode="bilinear"
    )[0, 0].numpy()
    assert np.abs(bilinear(mask, rows, columns) - exact).max() < 6e-8


@settings(max_examples=100, deadline=None)
@given(side, side, st.integers(8, 300), st.integers(8, 300), st.integers(0, 99))
def test_binary_is_diffusers_processor(
    height: int, width: int, tall: int, wide: int, seed: int
) -> None:
    """A grey picture of any size, for a picture of any size: bit for bit."""
    grey = Image.fromarray((drawn(height, width, seed) * 255).astype(np.uint8))
    theirs = IPAdapterMaskProcessor().preprocess(grey, tall, wide)[0, 0].numpy()
    found = binarised(mask_values(grey, "it"), Canvas(wide, tall, (), (1, 1)))
    assert np.array_equal(found, theirs)


@pytest.mark.parametrize("size", [(512, 512), (512, 640), (100, 60), (72, 88)], ids=str)
@pytest.mark.filterwarnings("ignore:The aspect ratio of the mask")
def test_every_rule_at_every_site(size: tuple[int, int]) -> None:
    width, height = size
    ours, grey = canvas(width, height), Image.fromarray((drawn(96, 120) * 255).astype(np.uint8))
    values = mask_values(grey, "it")
    binary = IPAdapterMaskProcessor().preprocess(grey, height, width)[0]
    found = {rule: ours.masks(values, "stretch", "it", rule) for rule in MASK_RULES}
    for rank, (rows, columns) in enumerate(ours.grids):
        queries = rows * columns
        expected = {
            "soft": downsample(values, queries, width / height),
            "binary": IPAdapterMaskProcessor.downsample(binary, 2, queries, 1)[0, :, 0].numpy(),
            "latent grid": comfyui.mask(values, queries, ours.latents),
        }
        for rule, values_there in expected.items():
            assert np.abs(found[rule][rank] - values_there).max() < CUBIC
        assert np.abs(expected["soft"] - expected["binary"]).max() > 0.1
        assert np.abs(expected["soft"] - expected["latent grid"]).max() > 0.01


def test_ones_are_no_mask_where_the_grid_fits() -> None:
    """Where it does not, two rules fill it with zeros as their programs do; the house does not."""
    ones = np.ones((8, 8), np.float32)
    for rule in MASK_RULES:
        assert canvas(64, 64).masks(ones, None, "it", rule) is None
    odd = Canvas(40, 128, ((4, 2),), (16, 5))  # 8 queries, of which both make 6 × 1
    ends = {"binary": [1] * 6 + [0, 0], "latent grid": [0] + [1] * 6 + [0]}
    assert odd.masks(np.ones((16, 5), np.float32), None, "it") is None
    for rule, expected in ends.items():
        (found,) = odd.masks(np.ones((16, 5), np.float32), None, "it", rule)
        assert found.tolist() == expected


@pytest.mark.parametrize(
    ("rule", "whose"),
    [("soft", "diffusers'"), ("binary", "diffusers'"), ("latent grid", "ComfyUI's")],
)
def test_sizes_at_which_a_rule_guesses_wrong_are_told(rule: str, whose: str) -> None:
    assert canvas(512, 768).warnings(rule) == []
    (told,) = Canvas(64, 72, ((5, 4),), (9, 8)).warnings(rule)
    assert f"64 × 72 is a size at which {whose} rule" in told
    assert "in 1 of 1 cross-attentions" in told
