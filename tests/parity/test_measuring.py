"""Measures, held to numpy's own functions and to cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.parity.capture.sketch import Sketch
from ipa.parity.compare.measures import QUANTILES, measure


def test_two_arrays(draw: np.random.Generator) -> None:
    a = draw.standard_normal((2, 3, 400)) + 0.5
    b = a * 1.02 - 0.1 + draw.standard_normal(a.shape) * 1e-3
    found, gap = measure(a, b), np.abs(b - a)
    assert found.relative_l2 == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a))
    assert found.max_abs == gap.max()
    assert found.quantiles == pytest.approx([np.quantile(gap, q) for q in QUANTILES])
    cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.cosine == pytest.approx(cosine, abs=1e-12)
    slope, bias = np.polyfit(a.reshape(-1), b.reshape(-1), 1)
    assert (found.slope, found.bias) == pytest.approx((slope, bias), abs=1e-9)
    peak = np.ptp(a)
    assert found.psnr_db == pytest.approx(10 * np.log10(peak**2 / (gap**2).mean()))


def test_sketches_tell_the_line_and_the_cosine(draw: np.random.Generator) -> None:
    """Measured: slope and bias within 1e-5 of the exact ones, cosine within 6e-6."""
    a = (draw.standard_normal((2, 64, 512)) + 0.5).astype(np.float32)
    b = (a * 1.002 - 0.01).astype(np.float32)
    exact = measure(a, b)
    for pair in ((Sketch.of(a), Sketch.of(b)), (a, Sketch.of(b)), (Sketch.of(a), b)):
        found = measure(*pair)
        assert found.slope == pytest.approx(exact.slope, abs=4e-5)
        assert found.bias == pytest.approx(exact.bias, abs=4e-5)
        assert found.cosine == pytest.approx(exact.cosine, abs=2e-5)
        # The gap is about constant; its projections are normal, half of them below 0.674 of that.
        assert 0.55 < found.quantiles[0] / exact.quantiles[0] < 0.8


@pytest.mark.parametrize("sketched", [False, True])
def test_edges(sketched: bool) -> None:
    kept = Sketch.of if sketched else np.asarray
    ones, zeros = np.ones((1, 600)), np.zeros((1, 600))
    same = measure(kept(ones), kept(ones))
    assert (same.relative_l2, same.cosine, same.psnr_db) == (0.0, 1.0, np.inf)
    assert (same.slope, same.bias) == (1.0, 0.0)  # of a constant, no slope can be told
    assert measure(kept(zeros), kept(zeros)).relative_l2 == 0.0
    assert measure(kept(zeros), kept(ones)).relative_l2 == np.inf
    lost = ones.copy()
    lost[0, 7] = np.nan
    assert not measure(kept(ones), kept(lost)).finite
    assert measure(kept(ones), kept(lost)).relative_l2 == np.inf
