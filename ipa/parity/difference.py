"""How far one stage of a run is from the same stage of another."""

from __future__ import annotations

from dataclasses import dataclass

QUANTILES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Measures:
    """Of b against a, both float64 inside; a is the reference.

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
    """A stage of both runs.

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
        """Of the limit, what is taken; infinite where there is no number."""
        if not self.measures.finite:
            return float("inf")
        found = self.measures.relative_l2
        return found / self.limit if self.limit else (float("inf") if found else 0.0)

    @property
    def ratio(self) -> float | None:
        """How many times the floor."""
        return self.measures.relative_l2 / self.floor if self.floor else None
