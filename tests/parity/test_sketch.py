"""Sketches: fixed bits, exact moments, distances within the error that is stated."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ipa.parity.capture.sketch import ERROR, WIDTH, Sketch, project
from ipa.parity.compare.measures import measure


def test_bits_are_part_of_the_format() -> None:
    """The projection, written anew with numbers drawn one by one: other bits, other format."""
    array = np.arange(1000, dtype=np.float32)
    words = np.random.Philox(key=0x1BA).random_raw(16)
    signs = [(int(word) >> place) & 1 for word in words for place in range(64)]
    turns = [int(word) % WIDTH for word in np.random.Philox(key=0x1BB).random_raw(4)]
    turns[0] = 0
    expected = [0.0] * WIDTH
    for number, value in enumerate(array):
        row, column = divmod(number, WIDTH)
        expected[(column + turns[row]) % WIDTH] += float(-value if signs[number] else value)
    assert project(array).tolist() == expected
    told = hashlib.sha256(project(np.ones(200_000)).astype("<i8").tobytes()).hexdigest()
    assert told[:16] == "25629e9f150da5cd"


def structured(draw: np.random.Generator, kind: int) -> np.ndarray:
    """Differences as they come: noise, one channel of a sequence, one map, one place."""
    gap = np.zeros((2, 30, 512))
    if kind == 0:
        return draw.standard_normal(gap.shape)
    if kind == 1:
        gap[:, :, draw.integers(512)] = draw.standard_normal((2, 30))
    elif kind == 2:
        gap[draw.integers(2), draw.integers(30)] = draw.standard_normal()
    else:
        gap[draw.integers(2), draw.integers(30), draw.integers(512)] = 1.0
    return gap


def test_distances_are_told_within_the_error(draw: np.random.Generator) -> None:
    """Measured over 160: standard deviation 0.033, largest 0.10."""
    errors = []
    for number in range(160):
        a = draw.standard_normal((2, 30, 512)) + 1.0
        gap = structured(draw, number % 4)
        b = a + gap * 1e-4
        told = measure(Sketch.of(a), Sketch.of(b)).relative_l2
        errors.append(told / measure(a, b).relative_l2 - 1)
    assert np.std(errors) < 1.2 * ERROR
    assert np.abs(errors).max() < 5 * ERROR


def test_moments_are_exact(draw: np.random.Generator) -> None:
    array = draw.standard_normal((3, 5, 700)).astype(np.float32) * 3 + 1
    moments = Sketch.of(array).moments
    wide = array.astype(np.float64)
    assert moments.norm == pytest.approx(np.linalg.norm(wide), rel=1e-12)
    assert (moments.mean, moments.std) == pytest.approx((wide.mean(), wide.std()), rel=1e-12)
    assert (moments.min, moments.max) == (array.min(), array.max())


def test_a_small_array_is_all_there(draw: np.random.Generator) -> None:
    array = draw.standard_normal((2, 100)).astype(np.float32)
    sketch = Sketch.of(array)
    assert np.array_equal(np.abs(sketch.projection), np.abs(array).reshape(-1))
    assert sketch.nbytes == array.nbytes
