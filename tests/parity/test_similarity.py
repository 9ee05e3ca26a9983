"""Likeness of pictures, held to the published formula, written out place by place."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.parity.compare.similarity import pictures, psnr_db, ssim


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equations 6, 12 and 13 to 16, for every window of every colour."""
    places = np.arange(11) - 5
    weights = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for colour in range(3):
        for top in range(a.shape[0] - 10):
            for left in range(a.shape[1] - 10):
                x, y = (p[top : top + 11, left : left + 11, colour].astype(float) for p in (a, b))
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                cov = (weights * (x - mx) * (y - my)).sum()
                c1, c2 = 2.55**2, 7.65**2
                top_ = (2 * mx * my + c1) * (2 * cov + c2)
                found.append(top_ / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(found))


def test_ssim_is_the_published_formula(draw: np.random.Generator) -> None:
    a = draw.integers(0, 256, (20, 17, 3)).astype(np.uint8)
    b = np.clip(a.astype(int) + draw.integers(-40, 40, a.shape), 0, 255).astype(np.uint8)
    assert ssim(a, b) == pytest.approx(slow_ssim(a, b), abs=1e-9)
    assert ssim(a, a) == 1.0
    assert ssim(a[:4, :6], a[:4, :6]) == 1.0
    assert ssim(a, 255 - a) < 0


def test_of_finished_pictures(draw: np.random.Generator) -> None:
    a = draw.random((1, 3, 16, 16)).astype(np.float32)
    found = pictures(a, a + np.float32(2 / 255), ([1.0, 0.0], [1.0, 1.0]))
    assert found.a.shape == (16, 16, 3)
    assert found.clip_cosine == pytest.approx(0.5**0.5)
    gap = found.b.astype(int) - found.a
    assert found.psnr_db == pytest.approx(10 * np.log10(255**2 / (gap**2).mean()))
    assert psnr_db(found.a, found.a) == np.inf
    assert pictures(a, a).clip_cosine is None
