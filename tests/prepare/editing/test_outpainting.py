"""Room around a picture, and latents in another size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ipa import RequestError
from ipa.prepare import enlarge, outpaint


def test_room_around_a_picture(draw: np.random.Generator) -> None:
    pixels = draw.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image, mask = outpaint(Image.fromarray(pixels), left=5, bottom=8, overlap=3)
    assert image.size == mask.size == (35, 28)
    assert np.array_equal(np.asarray(image)[:20, 5:], pixels)
    assert np.array_equal(np.asarray(image)[:20, :5], np.repeat(pixels[:, :1], 5, axis=1))
    kept = np.asarray(mask) == 0
    assert kept[:17, 8:].all() and kept.sum() == 17 * 27
    assert set(np.unique(mask)) == {0, 255}


def test_an_overlap_larger_than_the_picture_keeps_nothing() -> None:
    _, mask = outpaint(np.zeros((10, 10, 3), np.uint8), left=2, right=2, overlap=6)
    assert (np.asarray(mask) == 255).all()


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ({}, "adds nothing"),
        ({"left": -1}, "left must be"),
        ({"top": 1.5}, "top must be"),
        ({"right": 1, "overlap": True}, "overlap must be"),
        ({"right": 8192, "bottom": 8192}, "too large"),
    ],
)
def test_bad_sides(sides: dict[str, int], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        outpaint(np.zeros((10, 10, 3), np.uint8), **sides)


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 0.5])
def test_larger_latents(factor: float, draw: np.random.Generator) -> None:
    latents = draw.standard_normal((2, 4, 8, 6), dtype=np.float32)
    found = enlarge(latents, factor)
    size = (int(8 * factor), int(6 * factor))
    wanted = torch.nn.functional.interpolate(torch.from_numpy(latents), size, mode="bicubic")
    assert found.shape == wanted.shape
    # Largest difference: measured 1.2e-6, the rounding of sums of 16 products.
    assert np.abs(found - wanted.numpy()).max() < 5e-6


def test_what_is_no_latents() -> None:
    with pytest.raises(RequestError, match="have the shape"):
        enlarge(np.zeros((4, 8, 8), np.float32), 2.0)
    for factor in (0.0, float("inf"), 17.0, "2"):
        with pytest.raises(RequestError, match="factor must be"):
            enlarge(np.zeros((1, 4, 8, 8), np.float32), factor)
