"""Tiles of pictures: their places by hand, their pixels by PIL, their masks by counting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa.errors import RequestError
from ipa.prepare.image_prompts.tiles import coverage, cut, tiled
from ipa.prepare.scaling.masks import Canvas
from ipa.request.image_prompt import ImagePrompt
from ipa.request.profiles import PROFILES
from oracle import comfyui

CANVAS = Canvas(width=96, height=64, grids=(), latents=(8, 12))


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng((width, height)).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


# Of pictures (width, height): the crop of it that is kept, what that is resized to, how much of
# this is kept, and where the tiles of 256 begin. ComfyUI's for an encoder of 224.
LAYOUTS = {
    (300, 300): ((0, 0, 300, 300), (512, 512), (0, 0, 512, 512), [(0, 0), (256, 0), (0, 256)]),
    (301, 262): ((20, 0, 282, 262), (512, 512), (0, 0, 512, 512), [(0, 0), (256, 0), (0, 256)]),
    (400, 300): ((0, 0, 400, 300), (341, 256), (0, 0, 341, 256), [(0, 0), (85, 0)]),
    (300, 399): ((0, 0, 300, 399), (256, 340), (0, 0, 256, 340), [(0, 0), (0, 84)]),
    (500, 200): ((0, 0, 500, 200), (640, 256), (0, 0, 640, 256), [(0, 0), (192, 0), (384, 0)]),
    (100, 390): (
        (0, 0, 100, 390),
        (256, 998),
        (0, 0, 256, 998),
        [(0, 0), (0, 247), (0, 494), (0, 742)],
    ),
    (500, 100): (
        (0, 0, 500, 100),
        (1280, 256),
        (128, 0, 1152, 256),
        [(0, 0), (256, 0), (512, 0), (768, 0)],
    ),
}


@pytest.mark.parametrize("size", LAYOUTS, ids=str)
def test_tiles_lie_where_comfyui_puts_them(size: tuple[int, int]) -> None:
    image, (crop, resized, kept, corners) = picture(*size), LAYOUTS[size]
    if resized == (512, 512):
        corners = [*corners, (256, 256)]
    whole = image.crop(crop).resize(resized, Image.Resampling.LANCZOS).crop(kept)
    tiles = cut(image, 224)
    assert len(tiles) == len(corners)
    for tile, (x, y) in zip(tiles, corners, strict=True):
        assert np.array_equal(
            np.asarray(tile.image), np.asarray(whole.crop((x, y, x + 256, y + 256)))
        )
        across, down = whole.size
        box = (x / across, y / down, (x + 256) / across, (y + 256) / down)
        assert np.allclose(tile.box, box)


@pytest.mark.parametrize(("side", "length"), [(224, 256), (336, 384), (28, 32), (30, 35)])
def test_a_tile_is_an_eighth_larger_than_what_is_seen(side: int, length: int) -> None:
    assert {tile.image.size for tile in cut(picture(90, 40), side)} == {(length, length)}


def test_coverage_counts_parts_of_pixels() -> None:
    fine = (np.arange(60) + 0.5) / 60
    inside = np.multiply.outer((fine > 0.2) & (fine < 0.75), (fine > 0.1) & (fine < 0.35))
    counted = inside.reshape(5, 12, 4, 15).mean(axis=(1, 3))
    # Edges between the counted places: 1/15 of a pixel across at most.
    assert np.abs(coverage((0.1, 0.2, 0.35, 0.75), 5, 4) - counted).max() < 1e-6
    everywhere = coverage((0.0, 0.0, 1.0, 1.0), 7, 3)
    assert np.array_equal(everywhere, np.ones((7, 3), np.float32))


@pytest.mark.parametrize("size", [(300, 300), (400, 300), (500, 100)], ids=str)
def test_masks_cover_the_picture(size: tuple[int, int]) -> None:
    """Once where tiles lie side by side, twice where they overlap; a mask of one's own stays."""
    parts = tiled(ImagePrompt(picture(*size), fit="tile"), 224, CANVAS, "mask")
    total = sum(np.asarray(part.mask) for part in parts)
    overlap = size == (400, 300)
    assert total.min() == pytest.approx(1.0) and total.max() == pytest.approx(1.0 + overlap)
    own = np.random.default_rng(3).random((32, 48)).astype(np.float32)
    given = ImagePrompt(picture(*size), fit="tile", mask=own)
    found = sum(np.asarray(part.mask) for part in tiled(given, 224, CANVAS, "mask"))
    rest = sum(coverage(tile.box, 32, 48) for tile in cut(picture(*size), 224))
    assert np.abs(found - own * rest).max() < 1e-6
    whole = ImagePrompt(picture(*size), fit="pad")
    (alone,) = tiled(whole, 224, CANVAS, "mask")
    assert alone.prompt is whole and alone.mask is None


def test_masks_of_other_aspects() -> None:
    square = np.linspace(0, 1, 64, dtype=np.float32)[:, None].repeat(64, 1)
    given = {"fit": "tile", "mask": square}
    with pytest.raises(RequestError, match="another aspect than the picture"):
        tiled(ImagePrompt(picture(60, 60), **given), 28, CANVAS, "mask")
    cropped = tiled(ImagePrompt(picture(60, 60), mask_fit="crop", **given), 28, CANVAS, "mask")
    middle = square[(64 - 43) // 2 :][:43]
    found = sum(np.asarray(part.mask) for part in cropped)
    assert found.shape == (43, 64) and np.abs(found - middle).max() < 1e-6
    assert (
        CANVAS.masks(cropped[0].mask, cropped[0].mask_fit, "mask") == ()
    )  # not cropped once more, or refused
    stretched = tiled(ImagePrompt(picture(60, 60), mask_fit="stretch", **given), 28, CANVAS, "m")
    assert np.abs(sum(np.asarray(part.mask) for part in stretched) - square).max() < 1e-6


SIZES = [*LAYOUTS, (256, 256), (511, 384), (384, 511), (257, 1028), (1030, 257), (97, 61), (61, 97)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tiles_and_their_masks_are_comfyuis(size: tuple[int, int]) -> None:
    """Under its profile: in the pixels that tiles are cut from, the picture sharpened before."""
    comfy, image = PROFILES["comfyui"], picture(*size)
    soft = np.random.default_rng(size).random((40, 60)).astype(np.float32)
    for own, sharpen in ((None, 0.6), (soft, 0.0)):
        given = ImagePrompt(image, fit="tile", mask=own, sharpen=sharpen)
        found = tiled(given, 224, CANVAS, "mask", comfy)
        wanted = comfyui.tiled(np.asarray(image), own, sharpen)
        assert len(found) == len(wanted)
        for part, (tile, mask) in zip(found, wanted, strict=True):
            values: Any = part.prompt.images[0]
            unit = np.asarray(values) / np.float32(1.0 if sharpen else 255.0)
            assert np.abs(unit - tile).max() < 1e-6  # measured 2.4e-7
            assert part.mask is not None and part.mask.shape == mask.shape
            assert np.abs(part.mask - mask).max() < 2e-6  # measured 6.0e-7
            grids = [(8, 12), (4, 6), (3, 4)]
            canvas = replace(CANVAS, grids=tuple(grids))
            sites = canvas.masks(part.mask, part.mask_fit, "mask", "latent grid")
            for site, (rows, columns) in zip(sites or (), grids, strict=True):
                apart = np.abs(site - comfyui.mask(mask, rows * columns, (8, 12))).max()
                assert apart < 2e-6  # measured 3.0e-7
            assert part.prompt.sharpen == 0.0


def test_a_picture_that_is_too_long() -> None:
    with pytest.raises(RequestError, match=r"cut into tiles is too large.*crop it nearer"):
        cut(Image.new("RGB", (40000, 3)), 224)
