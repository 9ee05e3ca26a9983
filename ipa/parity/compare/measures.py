"""How far one stage is from another: the measures, and how they are taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipa.arrays import Doubles
from ipa.parity.capture.sketch import Kept, Moments, Sketch, as_sketch

QUANTILES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Measures:
    """Measures of the distance of b from a, both float64; a is the reference.

    `relative_l2` is |b - a| / |a|, `max_abs` the largest |b - a|, `cosine` that of the two as
    vectors, `psnr_db` with the range of a as the peak (infinite where they are equal), `quantiles`
    those of |b - a| at `QUANTILES`; `slope` and `bias` are of the least squares b ≈ slope · a +
    bias: a wrong factor or a lost bias shows there. Of a sketch, `max_abs` and `quantiles` are of
    its projections, scaled to the size of the stage's own numbers.
    """

    relative_l2: float
    max_abs: float
    cosine: float
    psnr_db: float
    quantiles: tuple[float, float, float, float]
    slope: float
    bias: float
    finite: bool = True


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a stage between two runs, with its limit.

    `floor` is the relative L2 that rounding alone makes there, None where it is not known; `limit`
    is what `relative_l2` may be; `bad` says that it is more. `lost` is what keeping the stage in
    float16 cost, which the limit allows beside.
    """

    stage: str
    shape: tuple[int, ...]
    measures: Measures
    floor: float | None
    limit: float
    bad: bool
    sketched: bool = False
    lost: float = 0.0

    def __post_init__(self) -> None:
        if not self.measures.finite:  # NaN is above no limit
            object.__setattr__(self, "bad", True)

    @property
    def share(self) -> float:
        """The distance over the limit; infinite where there is no number."""
        if not self.measures.finite:
            return float("inf")
        found = self.measures.relative_l2
        return found / self.limit if self.limit else (float("inf") if found else 0.0)

    @property
    def ratio(self) -> float | None:
        """The distance over the floor."""
        return self.measures.relative_l2 / self.floor if self.floor else None


_NAN, _INF = float("nan"), float("inf")


NOT_FINITE = Measures(_INF, _INF, _NAN, _NAN, (_NAN, _NAN, _NAN, _NAN), _NAN, _NAN, finite=False)
"""The measures of two arrays of which one has NaN or infinity: as far apart as can be."""


_CONSTANT = 1e-14
"""The variance of an array of one value and rounding, as a share of its mean square."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """The sums that measures of `size` numbers are made of; `gap` is |b - a|²."""

    size: int
    a: Moments
    b: Moments
    gap: float

    @property
    def product(self) -> float:
        """The product a · b, by the norms and the gap: exact where a and b are close."""
        return (self.a.norm**2 + self.b.norm**2 - self.gap) / 2

    def relative_l2(self) -> float:
        """The relative L2, |b - a| / |a|; infinite where a alone is all zeros."""
        gap = float(np.sqrt(self.gap))
        return gap / self.a.norm if self.a.norm else (_INF if gap else 0.0)

    def cosine(self) -> float:
        """The cosine: 1 where both are all zeros, 0 where one is."""
        if not self.a.norm or not self.b.norm:
            return float(self.a.norm == self.b.norm)
        return max(-1.0, min(1.0, self.product / (self.a.norm * self.b.norm)))

    def psnr_db(self) -> float:
        """The PSNR in dB, with the range of a as the peak."""
        peak = self.a.max - self.a.min
        if not self.gap:
            return _INF
        return float(10 * np.log10(peak**2 * self.size / self.gap)) if peak else -_INF

    def line(self) -> tuple[float, float]:
        """The least-squares line b ≈ slope · a + bias; slope 1 where a is constant."""
        variance, mean_square = self.a.std**2, self.a.norm**2 / self.size
        covariance = self.product / self.size - self.a.mean * self.b.mean
        slope = covariance / variance if variance > _CONSTANT * mean_square else 1.0
        return slope, self.b.mean - slope * self.a.mean


def measure(a: Kept, b: Kept) -> Measures:
    """Measure b against a, which have the same shape; see `Measures`.

    Where one is a sketch, both are taken as sketches: `relative_l2` is then an estimate with a
    relative error of `capture.sketch.ERROR` (one standard deviation), from which `cosine`,
    `psnr_db`, `slope` and `bias` are computed with the exact moments.
    """
    if isinstance(a, Sketch) or isinstance(b, Sketch):
        first, second = as_sketch(a), as_sketch(b)
        size, moments = first.size, (first.moments, second.moments)
        gaps = second.projection.astype(np.float64) - first.projection
        scale = (len(gaps) / size) ** 0.5
    else:
        wide: tuple[Doubles, Doubles] = a.astype(np.float64), b.astype(np.float64)
        size, moments = wide[0].size, (Moments.of(wide[0]), Moments.of(wide[1]))
        with np.errstate(invalid="ignore"):  # infinity less infinity
            gaps, scale = (wide[1] - wide[0]).reshape(-1), 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        gap = float(gaps @ gaps)
    if not np.isfinite([*(one.norm for one in moments), gap]).all():
        return NOT_FINITE
    return _measures(_Sums(size, *moments, gap), np.abs(gaps) * scale)


def _measures(sums: _Sums, gaps: Doubles) -> Measures:
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
