"""Influence as a value, and heat over a picture: on made-up numbers, without a model."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import RequestError
from ipa.model.sites import Site
from ipa.request.influence import Influence
from ipa.sheets.mask_overlay import overlay

SITES = (
    Site(1, "down_blocks.0.attentions.0.transformer_blocks.0.attn2", "down", 0, 0, 8),
    Site(3, "up_blocks.1.attentions.0.transformer_blocks.0.attn2", "up", 1, 0, 8),
    Site(5, "mid_block.attentions.0.transformer_blocks.0.attn2", "mid", 0, 0, 8),
)
SIZE = (5, 9)  # of the latents: levels round up
GRIDS = ((5, 9), (3, 5), (2, 3))
LEVELS = (0, 1, 2)


@pytest.fixture
def influence(draw: np.random.Generator) -> Influence:
    """Four steps, two pictures made, two image prompts of one and two pictures."""
    shares = tuple(draw.random((4, 2, 3, *grid)).astype(np.float16) / 3 for grid in GRIDS)
    return Influence(pictures=(1, 2), sites=SITES, size=SIZE, shares=shares)


def by_hand(found: Influence, rank: int, step: int, image: int, column: int) -> np.ndarray:
    """One grid at the latents: each place takes the query that halving leads to."""
    grid, level = found.shares[rank][step, image, column].astype(np.float64), LEVELS[rank]
    return np.array([[grid[y >> level, x >> level] for x in range(9)] for y in range(5)])


def test_a_map_is_the_mean_over_steps_and_sites(influence: Influence) -> None:
    every = [(rank, step) for rank in range(3) for step in range(4)]
    one = sum(by_hand(influence, r, s, 1, 0) for r, s in every) / 12
    assert np.abs(influence.map(0, image=1) - one).max() < 1e-7
    both = sum(by_hand(influence, r, 3, 0, c) for r in (2, 0) for c in (1, 2)) / 2
    found = influence.map(1, steps=[3], sites=[5, 1])
    assert found.dtype == np.float32 and np.abs(found - both).max() < 1e-7
    second = sum(by_hand(influence, 1, s, 0, 2) for s in (0, 1)) / 2
    assert np.abs(influence.map(1, 1, steps=range(2), sites="up") - second).max() < 1e-7
    assert influence.mean(1, 1, steps=range(2), sites=[3]) == pytest.approx(second.mean(), abs=1e-7)
    rest = 1 - influence.map(0, sites="mid") - influence.map(1, sites="mid")
    assert np.abs(influence.text(sites="mid") - rest).max() < 1e-6
    assert (influence.steps, influence.images) == (4, 2)


def test_arrays_say_what_they_are(influence: Influence) -> None:
    file = io.BytesIO()
    np.savez(file, **influence.arrays())
    file.seek(0)
    kept = np.load(file)
    assert kept["prompt"].tolist() == [0, 1, 1] and kept["picture"].tolist() == [0, 0, 1]
    assert kept["paths"].tolist() == [site.path for site in SITES]
    for site, shares in zip(SITES, influence.shares, strict=True):
        assert np.array_equal(kept[f"site_{site.number}"], shares)


def test_without_image_prompts_all_is_the_text(influence: Influence) -> None:
    nothing = tuple(shares[:, :, :0] for shares in influence.shares)
    found = Influence(pictures=(), sites=SITES, size=SIZE, shares=nothing)
    assert (found.text() == 1.0).all()
    assert found.describe() == [{"text": 1.0, "image_prompts": []}] * 2
    assert found.arrays()["prompt"].shape == found.arrays()["picture"].shape == (0,)


MISTAKES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "prompt": ((2,), {}, "no such prompt"),
    "from the end": ((-1,), {}, "no such prompt"),
    "no number": ((True,), {}, "no such prompt"),
    "picture": ((0, 1), {}, "no such picture"),
    "made picture": ((0,), {"image": 2}, "no such image"),
    "step": ((0,), {"steps": [4]}, "no such step"),
    "no steps": ((0,), {"steps": []}, "steps to average over"),
    "site": ((0,), {"sites": [1, 2]}, "no cross-attention"),
    "no sites": ((0,), {"sites": ()}, "sites to average over"),
    "section": ((0,), {"sites": "left"}, "'down', 'mid', 'up'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(name: str, influence: Influence) -> None:
    arguments, choice, words = MISTAKES[name]
    with pytest.raises(RequestError, match=words):
        influence.map(*arguments, **choice)


def light(picture: Image.Image, shares: np.ndarray, peak: float | None = None) -> np.ndarray:
    return np.asarray(overlay(picture, shares, peak).convert("L")).astype(int)


def test_heat_grows_with_the_share_and_the_picture_shows_through() -> None:
    shares = np.zeros((2, 4), np.float32)
    shares[:, 2:] = [0.15, 0.3]
    plain = Image.new("RGB", (64, 32), (128, 128, 128))
    heat = overlay(plain, shares)
    assert (heat.size, heat.mode) == ((64, 32), "RGB")
    found = light(plain, shares)
    assert found[16, 4] < found[16, 40] < found[16, 62]
    checks = Image.fromarray(np.indices((32, 64)).sum(axis=0).astype(np.uint8) % 2 * 255)
    assert np.ptp(light(checks, shares)[0, :2]) > 50
    assert light(plain, shares, 0.6)[16, 62] < found[16, 62]  # one scale for several
    assert np.array_equal(light(plain, shares * 2, 0.6), found)
    nothing = light(plain, np.zeros((2, 2), np.float32))
    assert (nothing == found[0, 0]).all()
    for peak in (0.0, -1.0, float("nan")):
        with pytest.raises(RequestError, match="above 0"):
            overlay(plain, shares, peak)
