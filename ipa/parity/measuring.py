"""Two arrays, two sketches, or one of each: how far apart they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .difference import QUANTILES, Measures
from .sketch import Moments, Sketch

Whole: TypeAlias = npt.NDArray[np.floating[Any]]

Kept: TypeAlias = Whole | Sketch
"""What is known of a stage: all of it, or a sketch."""

_NAN, _INF = float("nan"), float("inf")
NOT_FINITE = Measures(_INF, _INF, _NAN, _NAN, (_NAN, _NAN, _NAN, _NAN), _NAN, _NAN, finite=False)
"""Of two arrays of which one holds NaN or infinity: as far apart as can be."""

_CONSTANT = 1e-14
"""The variance of an array of one value and rounding, as a share of its mean square."""

Wide: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Sums:
    """What the measures of `size` numbers are made of; `gap` is |b - a|²."""

    size: int
    a: Moments
    b: Moments
    gap: float

    @property
    def product(self) -> float:
        """a · b. By the norms and the gap, which loses nothing where a and b are close."""
        return (self.a.norm**2 + self.b.norm**2 - self.gap) / 2

    def relative_l2(self) -> float:
        """|b - a| / |a|; infinite where a alone is all zeros."""
        gap = float(np.sqrt(self.gap))
        return gap / self.a.norm if self.a.norm else (_INF if gap else 0.0)

    def cosine(self) -> float:
        """1 where both are all zeros, 0 where one is."""
        if not self.a.norm or not self.b.norm:
            return float(self.a.norm == self.b.norm)
        return max(-1.0, min(1.0, self.product / (self.a.norm * self.b.norm)))

    def psnr_db(self) -> float:
        """With the range of a as the peak."""
        peak = self.a.max - self.a.min
        if not self.gap:
            return _INF
        return float(10 * np.log10(peak**2 * self.size / self.gap)) if peak else -_INF

    def line(self) -> tuple[float, float]:
        """Slope and bias of the least squares b ≈ slope · a + bias; slope 1 where a is constant."""
        variance, mean_square = self.a.std**2, self.a.norm**2 / self.size
        covariance = self.product / self.size - self.a.mean * self.b.mean
        slope = covariance / variance if variance > _CONSTANT * mean_square else 1.0
        return slope, self.b.mean - slope * self.a.mean


def measure(a: Kept, b: Kept) -> Measures:
    """Of b against a, which have the same shape; see `Measures`.

    Where one is a sketch, both are taken as sketches: `relative_l2` is then an estimate with a
    relative error of `ipa.parity.sketch.ERROR` (one standard deviation), from which `cosine`,
    `psnr_db`, `slope` and `bias` are computed with the exact moments.
    """
    if isinstance(a, Sketch) or isinstance(b, Sketch):
        first, second = as_sketch(a), as_sketch(b)
        size, moments = first.size, (first.moments, second.moments)
        gaps = second.projection.astype(np.float64) - first.projection
        scale = (len(gaps) / size) ** 0.5
    else:
        wide: tuple[Wide, Wide] = a.astype(np.float64), b.astype(np.float64)
        size, moments = wide[0].size, (Moments.of(wide[0]), Moments.of(wide[1]))
        with np.errstate(invalid="ignore"):  # infinity less infinity
            gaps, scale = (wide[1] - wide[0]).reshape(-1), 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        gap = float(gaps @ gaps)
    if not np.isfinite([*(one.norm for one in moments), gap]).all():
        return NOT_FINITE
    return _measures(_Sums(size, *moments, gap), np.abs(gaps) * scale)


def as_sketch(kept: Kept) -> Sketch:
    """What is left of a stage that is kept as a sketch."""
    return kept if isinstance(kept, Sketch) else Sketch.of(kept)


def _measures(sums: _Sums, gaps: Wide) -> Measures:
    slope, bias = sums.line()
    found = [float(value) for value in np.quantile(gaps, QUANTILES)]
    return Measures(
        relative_l2=sums.relative_l2(),
        max_abs=float(gaps.max()),
        cosine=sums.cosine(),
        psnr_db=sums.psnr_db(),
        quantiles=(found[0], found[1], found[2], found[3]),
        slope=slope,
        bias=bias,
    )
