"""Masks at the resolutions of the attentions, against diffusers' processor and torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.errors import RequestError
from ipa.prepare.images.resample import resample
from ipa.prepare.scaling.masks import downsample, fit_mask, guessed_grid, silence
from oracle.places import CUBIC_SLOPE, leeway

# Largest difference to torch's float32 over 3000 draws, beyond the leeway of places: measured
# 1.3e-6, most of it torch's own rounding. Values are of the order of 1.
ROUNDING = 4e-6


def drawn(height: int, width: int, seed: int, hard: bool) -> np.ndarray:
    values = np.random.default_rng(seed).random((height, width), np.float32)
    return np.round(values) if hard else values


side = st.integers(1, 200)


@settings(max_examples=200, deadline=None)
@given(side, side, st.integers(1, 5000), st.integers(0, 99), st.booleans())
@pytest.mark.filterwarnings("ignore:The aspect ratio of the mask")
def test_downsample_is_diffusers(
    height: int, width: int, queries: int, seed: int, hard: bool
) -> None:
    """Any size and any number of queries: padded or cut where the grid does not fit."""
    mask = drawn(height, width, seed, hard)
    found = downsample(mask, queries, width / height)
    assert (found.dtype, found.shape) == (np.float32, (queries,))
    if not 1 <= int(math.sqrt(queries / (width / height))) <= queries:
        return  # diffusers divides by zero, or resamples to nothing
    expected = IPAdapterMaskProcessor.downsample(torch.from_numpy(mask)[None], 2, queries, 1)
    spare = leeway(mask.shape, guessed_grid(queries, width / height), CUBIC_SLOPE)
    allowed = ROUNDING + np.resize(np.append(spare, np.zeros(queries)), queries)
    assert (np.abs(found - expected[0, :, 0].numpy()) < allowed).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 16), st.integers(1, 12), st.sampled_from((1, 2, 4, 8)), st.integers(0, 99))
def test_kernel_is_torchs_in_double_precision(
    rows: int, columns: int, factor: int, seed: int
) -> None:
    """Where positions are exact in float32, nothing is left but the last rounding."""
    mask = drawn(rows * factor, columns * factor, seed, hard=False)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(mask).double()[None, None], size=(rows, columns), mode="bicubic"
    )[0, 0].numpy()
    assert np.abs(resample(mask, rows, columns) - exact).max() < 6e-8


def test_guessed_grids_fit_multiples_of_64() -> None:
    """What the documentation of `guessed_grid` says."""
    wrong = {}
    for height in range(256, 1537, 64):
        for width in range(256, 1537, 64):
            grid = (height // 8, width // 8)
            for level in range(4):
                if guessed_grid(grid[0] * grid[1], width / height) != grid:
                    wrong[width, height, level] = grid
                grid = (-(-grid[0] // 2), -(-grid[1] // 2))
    assert wrong == {(1152, 448, 3): (7, 18)}


def test_fit() -> None:
    mask = np.random.default_rng(0).random((40, 60), np.float32)
    assert fit_mask(mask, 96, 64, None, "it") is mask
    assert fit_mask(mask, 91, 61, None, "it") is mask  # 60 × 40.2
    assert fit_mask(mask, 64, 64, "stretch", "it") is mask
    assert np.array_equal(fit_mask(mask, 64, 64, "crop", "it"), mask[:, 10:50])
    assert np.array_equal(fit_mask(mask, 120, 40, "crop", "it"), mask[10:30])
    assert fit_mask(mask[:1], 8, 800, "crop", "it").shape == (1, 1)
    with pytest.raises(RequestError, match=r"it has another aspect.*60 × 40, needed 64 × 64"):
        fit_mask(mask, 64, 64, None, "it")


def test_silence() -> None:
    """λ is 0 where a mask is empty, and there alone."""
    empty, full = np.zeros(4, np.float32), np.array([0, 0, 0.1, 0], np.float32)
    assert silence((0.5, 0.6, 0.7), (empty, full, None)) == (0.0, 0.6, 0.7)
    assert silence((0.5, 0.6), None) == (0.5, 0.6)
