"""ComfyUI's square of a picture, against torch's antialiased bicubic interpolation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ipa.model.preprocessor import default_preprocessing
from ipa.prepare.images.clip import clip_pixels, encoder_views
from ipa.prepare.images.fit import sharpened
from oracle import comfyui

# Where torch's value lies as near as this to a half between two numbers of 8 bits, its float32 may
# round the other way: measured 4.6e-5 over 150 pictures of noise, 98 values of 6.7 million.
NEAR_A_HALF = 1e-4


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """As hard as pictures can be: one bit of a place is seen."""
    return np.random.default_rng((seed, width, height)).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


def check(found: np.ndarray, unrounded: np.ndarray) -> None:
    """Eight bits, (3, S, S), that are the nearest to what torch has."""
    cut = np.clip(unrounded, 0, 255)
    apart = np.abs(found - np.rint(cut))
    assert apart.max() <= 1
    assert (np.abs(cut - np.floor(cut) - 0.5)[apart > 0] < NEAR_A_HALF).all()


def seen(picture: np.ndarray, side: int, fit: str = "center-crop") -> np.ndarray:
    (view,) = encoder_views([picture], default_preprocessing(side), fit, resize="floats")
    return np.asarray(view).transpose(2, 0, 1).astype(np.float64)


side = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
@given(side, side, st.integers(2, 96), st.booleans())
def test_square_is_torchs(width: int, height: int, size: int, squash: bool) -> None:
    """Any size, shrunk or enlarged, cut about its middle or squashed.

    Not to a width of one pixel: there torch 2.13 gives all rows the value of the first.
    """
    picture = noise(width, height)
    fit = "squash" if squash else "center-crop"
    check(seen(picture, size, fit), comfyui.unrounded(picture, size, squash=squash))


@pytest.mark.parametrize(
    "size", [(640, 480), (224, 224), (224, 225), (1, 500), (333, 334), (45, 99)], ids=str
)
def test_pixels_are_comfyuis(size: tuple[int, int]) -> None:
    """As the encoder takes them, to the bit where the 8 bits are the same."""
    picture = noise(*size)
    found = clip_pixels([picture], default_preprocessing(224), resize="floats")[0]
    expected = comfyui.pixels(picture, 224)
    assert found.dtype == np.float32
    different = found != expected
    assert different.mean() < 3e-5  # measured 1.3e-5 at most
    check(seen(picture, 224), comfyui.unrounded(picture, 224))


def test_what_has_the_size_is_left_alone() -> None:
    """Where the other path is the same too, and nowhere else."""
    config = default_preprocessing(64)
    for size, same in (((64, 64), True), ((64, 90), True), ((90, 90), False)):
        one, two = (clip_pixels([noise(*size)], config, resize=r) for r in ("bytes", "floats"))
        assert np.array_equal(one, two) is same


def test_fits_and_sharpening_come_before_and_after() -> None:
    config, picture = default_preprocessing(48), Image.fromarray(noise(120, 70))
    left = picture.crop((0, 0, 70, 70))
    (found,) = encoder_views([picture], config, "left", resize="floats")
    assert np.array_equal(found, encoder_views([left], config, resize="floats")[0])
    pixels = np.asarray(found).transpose(2, 0, 1)
    (sharp,) = encoder_views([picture], config, "left", 0.5, "floats")
    assert np.array_equal(np.asarray(sharp).transpose(2, 0, 1), sharpened(pixels, 0.5))
    padded = np.asarray(encoder_views([picture], config, "pad", resize="floats")[0])
    assert padded.shape == (48, 48, 3) and not padded[:9].any() and padded[24].any()


SIZES = [
    *((90, 61), (61, 90), (224, 224), (225, 224), (224, 227), (301, 100), (100, 303), (5, 4)),
    *((48, 48), (48, 49), (1, 7), (640, 480), (481, 640), (333, 512), (97, 98), (64, 20)),
    *((20, 65), (400, 30)),
]


@pytest.mark.parametrize("fit", ["pad", "top", "bottom", "left", "right", "center-crop"])
def test_prepared_pictures_are_comfyuis(fit: str) -> None:
    """Every size by every fit, plain and sharpened: 216 pictures in all."""
    config = default_preprocessing(56)
    for size in SIZES:
        picture = noise(*size)
        for amount in (0.0, 0.3) if fit != "center-crop" else (0.3, 1.0):
            (view,) = encoder_views([picture], config, fit, amount, "prepared floats")
            wanted = comfyui.prepared(picture, fit.partition("-")[0], 56, amount)
            check(np.asarray(view).transpose(2, 0, 1).astype(np.float64), wanted)


def test_what_is_not_prepared_is_the_encoders() -> None:
    """Without sharpening the middle is the encoder's own; so is a squashed picture."""
    config, picture = default_preprocessing(56), noise(90, 61)
    for fit, amount in (("center-crop", 0.0), ("squash", 0.0), ("squash", 0.5)):
        one, two = (
            encoder_views([picture], config, fit, amount, rule)[0]
            for rule in ("floats", "prepared floats")
        )
        assert np.array_equal(np.asarray(one), np.asarray(two))
    box = (0.1, 0.0, 0.9, 1.0)
    plain, boxed = (
        encoder_views([picture], config, box, 0.4, rule)[0]
        for rule in ("floats", "prepared floats")
    )
    assert not np.array_equal(np.asarray(plain), np.asarray(boxed))
    cut = picture[:, 9:81]
    wanted = comfyui.prepared(cut, "center", 56, 0.4)
    check(np.asarray(boxed).transpose(2, 0, 1).astype(np.float64), wanted)


@pytest.mark.parametrize("size", [(90, 61), (256, 256), (56, 56), (30, 200)], ids=str)
def test_arrays_are_not_rounded_before(size: tuple[int, int]) -> None:
    values = np.random.default_rng(size).random((size[1], size[0], 3)).astype(np.float32)
    (view,) = encoder_views([values], default_preprocessing(56), resize="floats")
    wanted = comfyui.unrounded_floats(values, 56)
    check(np.asarray(view).transpose(2, 0, 1).astype(np.float64), wanted)
    grey = values[..., 0]
    (view,) = encoder_views([grey], default_preprocessing(56), resize="floats")
    wanted = comfyui.unrounded_floats(grey[..., None].repeat(3, 2), 56)
    check(np.asarray(view).transpose(2, 0, 1).astype(np.float64), wanted)


def test_only_size_mean_and_deviation_are_the_encoders() -> None:
    plain = default_preprocessing(40)
    picture = [noise(90, 61)]
    other = plain | {"resample": 0, "size": 97, "rescale_factor": 1.0, "do_rescale": False}
    expected = clip_pixels(picture, plain, resize="floats")
    assert np.array_equal(clip_pixels(picture, other, resize="floats"), expected)
    mean = clip_pixels(picture, plain | {"image_mean": [0.0] * 3}, resize="floats")
    assert not np.array_equal(mean, expected)
