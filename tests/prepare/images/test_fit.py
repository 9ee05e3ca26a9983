"""Fits and sharpening: against transformers where it has the fit, else against PIL and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ipa.model.preprocessor import ClipPreprocessor, default_preprocessing
from ipa.prepare.images.clip import clip_pixels, encoder_views
from ipa.prepare.images.fit import kept, sharpened

SIZES = ((90, 60), (61, 140), (64, 64), (3, 500), (1, 1), (31, 29))
SIDE = 56
CONFIG = default_preprocessing(SIDE)


def picture(width: int, height: int) -> Image.Image:
    random = np.random.default_rng((width, height))
    ramp = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    return Image.fromarray((ramp + random.integers(0, 56, (height, width, 3))).astype(np.uint8))


def theirs(image: Image.Image, **changes: Any) -> np.ndarray:
    return np.stack(CLIPImageProcessorPil(**(CONFIG | changes))(image)["pixel_values"])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_squash_is_transformers_with_a_fixed_size(size: tuple[int, int]) -> None:
    image = picture(*size)
    wanted = theirs(image, size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    assert np.array_equal(clip_pixels([image], CONFIG, "squash"), wanted)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pad_is_pil_with_black(size: tuple[int, int]) -> None:
    image = picture(*size)
    if min(size) * SIDE < max(size):  # PIL would make it 0 pixels wide
        assert np.asarray(encoder_views([image], CONFIG, "pad")[0]).any()
        return
    padded = ImageOps.pad(image, (SIDE, SIDE), Image.Resampling.BICUBIC, color="black")
    (seen,) = encoder_views([image], CONFIG, "pad")
    # PIL rounds the offset of the middle to the nearest, we round it down, as CLIP's crop does.
    shifts = [np.roll(np.asarray(padded), (-y, -x), (0, 1)) for y in (0, 1) for x in (0, 1)]
    assert any(np.array_equal(np.asarray(seen), shifted) for shifted in shifts)
    assert np.array_equal(clip_pixels([image], CONFIG, "pad"), theirs(seen))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("edge", ["top", "bottom", "left", "right"])
def test_an_edge_is_a_square_cut_out_before(edge: str, size: tuple[int, int]) -> None:
    image, side = picture(*size), min(size)
    array = np.asarray(image)
    y, x = (size[1] - side) // 2, (size[0] - side) // 2
    rows, columns = slice(y, y + side), slice(x, x + side)
    if edge in ("top", "bottom"):
        rows = slice(None, side) if edge == "top" else slice(size[1] - side, None)
    else:
        columns = slice(None, side) if edge == "left" else slice(size[0] - side, None)
    wanted = theirs(Image.fromarray(np.ascontiguousarray(array[rows, columns])))
    assert np.array_equal(clip_pixels([image], CONFIG, edge), wanted)


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((0.0, 0.0, 1.0, 1.0), (0, 0, 90, 60)),
        ((0.1, 0.2, 0.7, 0.9), (9, 12, 63, 54)),
        ((0.005, 0.0, 0.999, 0.5), (0, 0, 90, 30)),  # outwards, to whole pixels
        ((1 / 3, 0.0, 1.0, 1.0), (30, 0, 90, 60)),
        ((0.999, 0.999, 1.0, 1.0), (89, 59, 90, 60)),
    ],
)
def test_a_box_is_cut_out_before(box: Any, pixels: Any) -> None:
    image = picture(90, 60)
    assert np.array_equal(clip_pixels([image], CONFIG, box), theirs(image.crop(pixels)))


@pytest.mark.parametrize(
    "config",
    [{"size": 64, "crop_size": 48}, {"size": {"height": 48, "width": 48}, "do_center_crop": False}],
)
def test_fits_hold_for_other_settings(config: dict[str, Any]) -> None:
    """All of the picture, with the crop that the encoder's own settings take of a square."""
    settings = CONFIG | {"crop_size": 48} | config
    for fit in ("squash", "pad", "left", (0.0, 0.0, 0.5, 1.0)):
        assert clip_pixels([picture(90, 60)], settings, fit).shape == (1, 3, 48, 48)
    side = 64 if "crop_size" in config else 48
    square = picture(90, 60).resize((side, side), Image.Resampling.BICUBIC)
    wanted = theirs(square, **({"crop_size": 48} | config))
    assert np.array_equal(clip_pixels([picture(90, 60)], settings, "squash"), wanted)


def test_views_are_what_the_pixels_are_made_of() -> None:
    for fit in ("center-crop", "squash", "pad", "top", (0.0, 0.5, 1.0, 1.0)):
        (view,) = encoder_views([picture(61, 140)], CONFIG, fit, 0.4)
        assert np.array_equal(theirs(view), clip_pixels([picture(61, 140)], CONFIG, fit, 0.4))


def test_share_that_is_kept() -> None:
    recipe = ClipPreprocessor.from_config(CONFIG)
    shares = {
        (90, 60, "center-crop"): 2 / 3,
        (60, 90, "center-crop"): 2 / 3,
        (90, 60, "pad"): 1.0,
        (50, 50, "center-crop"): 1.0,
        (90, 60, (0.0, 0.0, 0.5, 1.0)): 0.75,
        (90, 60, (1 / 3, 0.0, 1.0, 1.0)): 1.0,
    }
    for (width, height, fit), share in shares.items():
        assert abs(kept(width, height, fit, recipe) - share) < 0.01
    squashing = ClipPreprocessor.from_config({"size": [48, 48], "do_center_crop": False})
    assert kept(90, 60, "center-crop", squashing) == 1.0


def cas(pixels: np.ndarray, amount: float) -> np.ndarray:
    """FidelityFX CAS, written out for one channel at a time with torch, pixel by pixel."""
    image = torch.nn.functional.pad(torch.from_numpy(pixels / 255.0), (1, 1, 1, 1))
    result = np.zeros(pixels.shape)
    for c, y, x in np.ndindex(*pixels.shape):
        window = image[c, y : y + 3, x : x + 3]
        cross = torch.stack([window[0, 1], window[1, 0], window[1, 1], window[1, 2], window[2, 1]])
        diagonal = torch.stack([window[0, 0], window[0, 2], window[2, 0], window[2, 2]])
        low = cross.min() + diagonal.min()
        high = cross.max() + diagonal.max()
        amplitude = torch.sqrt(torch.minimum(low, 2 - high) / high)
        w = -amplitude * (amount * (1 / 5 - 1 / 8) + 1 / 8)
        around = cross.sum() - window[1, 1]
        result[c, y, x] = float(((around * w + window[1, 1]) / (1 + 4 * w)).clamp(0, 1))
    return np.round(result * 255).astype(np.uint8)


@pytest.mark.parametrize("amount", [0.1, 1.0])
def test_sharpening_is_cas(amount: float) -> None:
    pixels = np.asarray(picture(11, 9)).transpose(2, 0, 1)
    found = sharpened(pixels, amount)
    assert np.array_equal(found, cas(pixels, amount))
    assert not np.array_equal(found, pixels)


def test_no_sharpening_is_exact_and_flat_pictures_stay() -> None:
    image = picture(61, 140)
    assert np.array_equal(clip_pixels([image], CONFIG, sharpen=0.0), theirs(image))
    flat = np.full((3, 6, 6), 120, np.uint8)
    assert np.array_equal(sharpened(flat, 1.0), flat)
