"""How far one stage is from another: the measures, how they are taken, and how reports show them.

A new one is a field of `Measures`, a method of `_Sums` of its name, and a row of `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from ipa.arrays import Doubles
from ipa.parity.capture.sketch import Kept, Moments, Sketch, as_sketch

QUANTILES = (0.5, 0.9, 0.99, 0.999)
Quantiles = tuple[float, float, float, float]

_NAN, _INF = float("nan"), float("inf")


@dataclass(frozen=True, slots=True)
class Measures:
    """Measures of the distance of b from a, both float64; a is the reference.

    `relative_l2` is |b - a| / |a|, `max_abs` the largest |b - a|, `cosine` that of the two as
    vectors, `psnr_db` with the range of a as the peak (infinite where they are equal), `quantiles`
    those of |b - a| at `QUANTILES`; `slope` and `bias` are of the least squares b ≈ slope · a +
    bias: a wrong factor or a lost bias shows there. Of a sketch, `max_abs` and `quantiles` are of
    its projections, scaled to the size of the stage's own numbers. The defaults are what they are
    where one of the two has NaN or infinity.
    """

    relative_l2: float = _INF
    max_abs: float = _INF
    cosine: float = _NAN
    psnr_db: float = _NAN
    quantiles: Quantiles = (_NAN, _NAN, _NAN, _NAN)
    slope: float = _NAN
    bias: float = _NAN
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


NOT_FINITE = Measures(finite=False)
"""The measures of two arrays of which one has NaN or infinity: as far apart as can be."""


_CONSTANT = 1e-14
"""The variance of an array of one value and rounding, as a share of its mean square."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """What measures of `size` numbers are made of; `gap` is |b - a|², `gaps` all |b - a|.

    The methods are `Measures`, by their names.
    """

    size: int
    a: Moments
    b: Moments
    gap: float
    gaps: Doubles

    @property
    def product(self) -> float:
        """The product a · b, by the norms and the gap: exact where a and b are close."""
        return (self.a.norm**2 + self.b.norm**2 - self.gap) / 2

    def relative_l2(self) -> float:
        """The relative L2, |b - a| / |a|; infinite where a alone is all zeros."""
        gap = float(np.sqrt(self.gap))
        return gap / self.a.norm if self.a.norm else (_INF if gap else 0.0)

    def max_abs(self) -> float:
        """The largest difference."""
        return float(self.gaps.max())

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

    def quantiles(self) -> Quantiles:
        """The differences' quantiles at `QUANTILES`."""
        half, most, nearly, all_but = (float(q) for q in np.quantile(self.gaps, QUANTILES))
        return half, most, nearly, all_but

    def slope(self) -> float:
        """The slope of the least-squares line b ≈ slope · a + bias; 1 where a is constant."""
        variance, mean_square = self.a.std**2, self.a.norm**2 / self.size
        covariance = self.product / self.size - self.a.mean * self.b.mean
        return covariance / variance if variance > _CONSTANT * mean_square else 1.0

    def bias(self) -> float:
        """The bias of that line."""
        return self.b.mean - self.slope() * self.a.mean


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
    sums = _Sums(size, *moments, gap, np.abs(gaps) * scale)
    taken = (one.name for one in fields(Measures) if one.name != "finite")
    return Measures(**{name: getattr(sums, name)() for name in taken})


Place = Literal["page", "text", "issue"]
_EVERYWHERE: frozenset[Place] = frozenset({"page", "text", "issue"})
_PAGE: frozenset[Place] = frozenset({"page"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A number of a difference as reports show it.

    Attributes:
        name: The key of its column in the page's data.
        title: Its column's title.
        meaning: What it says, in a sentence or two.
        value: Takes it; None where it is not known.
        of_sketch: What it is of a sketch: exact, an estimate, or of its projections.
        digits: How many are shown in texts; a page shows three at least.
        places: The tables that it has a column in: the page's, those of texts, an issue's.
    """

    name: str
    title: str
    meaning: str
    value: Callable[[Difference], float | None]
    of_sketch: Literal["exact", "estimated", "projected"]
    digits: int = 2
    places: frozenset[Place] = _PAGE


METRICS: tuple[Metric, ...] = (
    Metric(
        name="relative_l2",
        title="relative L2",
        meaning="|b − a| / |a|: 0 is equal, 1e-6 float32's rounding, 0.3 another result.",
        value=lambda one: one.measures.relative_l2,
        of_sketch="estimated",
        places=_EVERYWHERE,
    ),
    Metric(
        name="limit",
        title="limit",
        meaning="What the relative L2 may be; a stage above it is bad.",
        value=lambda one: one.limit,
        of_sketch="exact",
        places=_EVERYWHERE,
    ),
    Metric(
        name="ratio",
        title="× floor",
        meaning="How many times the floor: near 1 nothing but rounding is to be seen.",
        value=lambda one: one.ratio,
        of_sketch="estimated",
        places=_EVERYWHERE,
    ),
    Metric(
        name="floor",
        title="floor",
        meaning="What rounding alone makes there: the run's own precision against float32.",
        value=lambda one: one.floor,
        of_sketch="exact",
    ),
    Metric(
        name="max_abs",
        title="max abs",
        meaning="The largest single |b − a|.",
        value=lambda one: one.measures.max_abs,
        of_sketch="projected",
        places=_EVERYWHERE,
    ),
    Metric(
        name="one_minus_cosine",
        title="1 − cosine",
        meaning="0 where both point the same way: then a factor is all that differs.",
        value=lambda one: 1 - one.measures.cosine,
        of_sketch="estimated",
    ),
    Metric(
        name="psnr_db",
        title="PSNR dB",
        meaning="In decibel, with a's range as the peak: higher is nearer.",
        value=lambda one: one.measures.psnr_db,
        of_sketch="estimated",
    ),
    Metric(
        name="slope",
        title="slope",
        meaning="The factor of the straight line that best makes b of a; 1 where they agree.",
        value=lambda one: one.measures.slope,
        of_sketch="estimated",
        digits=4,
        places=_EVERYWHERE,
    ),
    Metric(
        name="bias",
        title="bias",
        meaning="What that line adds; 0 where they agree.",
        value=lambda one: one.measures.bias,
        of_sketch="estimated",
        places=frozenset({"page", "text"}),
    ),
    Metric(
        name="median",
        title="median |b − a|",
        meaning="Half of the differences are smaller.",
        value=lambda one: one.measures.quantiles[0],
        of_sketch="projected",
    ),
    Metric(
        name="p999",
        title="99.9 % |b − a|",
        meaning="All but a thousandth of the differences are smaller.",
        value=lambda one: one.measures.quantiles[3],
        of_sketch="projected",
    ),
)
"""The numbers of a difference, in the order of all tables."""


def metrics_of(place: Place) -> tuple[Metric, ...]:
    """Those that a table has columns for."""
    return tuple(one for one in METRICS if place in one.places)
