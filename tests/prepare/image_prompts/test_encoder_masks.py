"""Masks on pictures, and the parts of both: where the pixels go, which transformers judges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from ipa.errors import RequestError
from ipa.model.preprocessor import ClipPreprocessor, default_preprocessing
from ipa.prepare.image_prompts.encoder_masks import (
    mask_on,
    masked_pixels,
    masked_view,
    seen_mask,
    seen_masks,
)
from ipa.prepare.image_prompts.enhancement import Enhancement
from ipa.prepare.images.clip import clip_pixels, encoder_views
from ipa.request.image_prompt import ImagePrompt

SIZES = ((90, 60), (61, 140), (64, 64), (3, 500), (31, 29))
FITS: dict[str, Any] = {
    "center-crop": "center-crop",
    "squash": "squash",
    "pad": "pad",
    "top": "top",
    "left": "left",
    "right": "right",
    "box": (0.1, 0.2, 0.7, 0.9),
}
SIDE = 56
CONFIG = default_preprocessing(SIDE)
RECIPE = ClipPreprocessor.from_config(CONFIG)


def grey(width: int, height: int) -> np.ndarray:
    """Smooth, so that two roundings to 8 bits are worth no more than two of its steps."""
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    return np.round(255 * (0.5 + 0.5 * np.sin(3 * x + 4 * y))) / 255


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("fit", FITS)
def test_a_mask_goes_where_the_picture_goes(fit: str, size: tuple[int, int]) -> None:
    """A grey picture and the mask of the same values: what is seen of both is the same."""
    values = grey(*size)
    picture = Image.fromarray(np.round(values * 255).astype(np.uint8)).convert("RGB")
    (view,) = encoder_views([picture], CONFIG, FITS[fit])
    seen = np.asarray(view)[..., 0] / 255
    mask = seen_mask(mask_on(values.astype(np.float32), size), RECIPE, FITS[fit])
    shown = np.ones_like(seen, dtype=bool)
    if fit == "pad":  # black around the picture, which no mask hides
        (white,) = encoder_views([Image.new("L", size, 255)], CONFIG, "pad")
        shown = np.asarray(white)[..., 0] > 0
        assert (mask[~shown] == 1).all()
    assert np.abs(mask - seen)[shown].max() < 2.01 / 255


@pytest.mark.parametrize("fit", FITS)
def test_white_is_exact(fit: str) -> None:
    for size in SIZES:
        ones = mask_on(np.ones((size[1], size[0]), np.float32), size)
        assert (seen_mask(ones, RECIPE, FITS[fit]) == 1).all()
    # Without a resize, a small picture has black around it, which is not masked.
    bare = ClipPreprocessor.from_config(CONFIG | {"do_resize": False})
    if fit != "squash":
        assert (
            seen_mask(mask_on(np.ones((20, 30), np.float32), (30, 20)), bare, FITS[fit]) == 1
        ).all()


def test_a_mask_of_another_size_is_resized_as_torch_does() -> None:
    small = np.random.default_rng(4).random((30, 45)).astype(np.float32)
    found = np.asarray(mask_on(small, (90, 60)))
    wanted = functional.interpolate(
        torch.from_numpy(small)[None, None], (60, 90), mode="bicubic", antialias=True
    )
    assert np.abs(found - wanted[0, 0].numpy()).max() < 1e-6
    mask_on(np.ones((667, 1000), np.float32), (90, 60))  # a pixel of rounding
    with pytest.raises(RequestError, match="another aspect than its picture"):
        mask_on(np.ones((60, 60), np.float32), (90, 60))


def test_masked_pixels_and_views_agree() -> None:
    """A view, normalised, is what the encoder is given, but for its rounding to 8 bits."""
    image = Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 60, 3), np.uint8))
    prompt = ImagePrompt([image, image], encoder_mask=[grey(60, 60), None])
    masks = seen_masks(prompt, RECIPE)
    assert masks[1] is None
    pixels = clip_pixels([image, image], CONFIG)
    found = masked_pixels(pixels, masks)
    assert np.array_equal(found[1], pixels[1])
    assert np.array_equal(found[0], pixels[0] * masks[0])
    assert masked_pixels(pixels, [None, None]) is pixels
    (view,) = encoder_views([image], CONFIG)
    shown = masked_view(view, masks[0], RECIPE)
    apart = np.abs(clip_pixels([shown], CONFIG)[0] - found[0]) * np.array(RECIPE.std)[:, None, None]
    assert apart.max() < 0.51 / 255
    assert masked_view(view, None, RECIPE) is view


# Where the parts of a picture of 91 × 60 begin, and their size: 2 × 2 of what a fit shows.
PARTS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "center-crop": ((15, 0), (30, 30)),
    "left": ((0, 0), (30, 30)),
    "right": ((31, 0), (30, 30)),
    "top": ((15, 0), (30, 30)),
    "squash": ((0, 0), (45, 30)),
    "box": ((15, 12), (21, 21)),
}


@pytest.mark.parametrize("fit", PARTS)
def test_parts_are_of_what_a_fit_shows(fit: str) -> None:
    """Of pictures and of masks on them alike; the box is 9 to 64 by 12 to 54."""
    values = np.arange(91 * 60, dtype=np.float32).reshape(60, 91)
    (left, top), (width, height) = PARTS[fit]
    for number, crop in enumerate(Enhancement(2, 1.0).crops(Image.fromarray(values), FITS[fit])):
        x, y = left + width * (number % 2), top + height * (number // 2)
        assert np.array_equal(np.asarray(crop), values[y : y + height, x : x + width])


def test_parts_of_a_padded_picture() -> None:
    picture = Image.new("RGB", (40, 20), (9, 8, 7))
    crops = Enhancement(2, 1.0).crops(picture, "pad")
    assert [crop.size for crop in crops] == [(20, 20)] * 4
    for crop, rows in zip(crops, (slice(10, 20), slice(10, 20), slice(10), slice(10)), strict=True):
        shown = np.asarray(crop).any(axis=2)
        assert shown[rows].all() and shown.sum() == 200
    with pytest.raises(RequestError, match="padded to a square is too large"):
        Enhancement(2, 1.0).crops(Image.new("RGB", (20000, 2)), "pad")


@pytest.mark.parametrize("tiles", [2, 3, 5])
def test_pooling_is_torchs(tiles: int) -> None:
    parts = np.random.default_rng(tiles).standard_normal((tiles**2, 17, 6)).astype(np.float32)
    rows = torch.from_numpy(parts[:, 1:]).double().reshape(tiles, tiles, 4, 4, 6)
    merged = torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0).permute(2, 0, 1)
    wanted = functional.adaptive_avg_pool2d(merged, 4).flatten(1).T.numpy()
    found = Enhancement(tiles, 1.0).pooled(parts)
    assert np.abs(found[1:] - wanted).max() < 1e-14
    assert np.abs(found[0] - parts[:, 0].mean(axis=0, dtype=np.float64)).max() < 1e-14
