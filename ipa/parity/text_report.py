"""What a comparison found, in words and in a few rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .comparison import Comparison
from .difference import Difference
from .stages import split


@dataclass(frozen=True, slots=True)
class PhaseSummary:
    """One phase of a run: how many of its stages are bad, and the worst by its limit."""

    phase: str
    stages: int
    bad: int
    worst: Difference


def phases(comparison: Comparison) -> tuple[PhaseSummary, ...]:
    """In the order of the run."""
    groups: dict[str, list[Difference]] = {}
    for one in comparison.differences:
        groups.setdefault(split(one.stage)[0], []).append(one)
    return tuple(
        PhaseSummary(phase, len(group), sum(one.bad for one in group), worst(group))
        for phase, group in groups.items()
    )


def worst(differences: Iterable[Difference]) -> Difference:
    """The one that takes most of its limit; the first of equal ones."""
    return max(differences, key=share)


def share(difference: Difference) -> float:
    """Of the limit, what is taken; infinite where there is no number."""
    if not difference.measures.finite:
        return float("inf")
    found, limit = difference.measures.relative_l2, difference.limit
    return found / limit if limit else (float("inf") if found else 0.0)


def verdict(comparison: Comparison) -> str:
    """In one sentence."""
    a, b, first = comparison.a.name, comparison.b.name, comparison.first_bad
    count = len(comparison.differences)
    if first is None:
        near = worst(comparison.differences)
        return (
            f"{b} agrees with {a}: all {count} stages are within their limits, the worst, "
            f"{near.stage}, at {_size(near)}."
        )
    bad = sum(one.bad for one in comparison.differences)
    return (
        f"{b} departs from {a} at {first.stage}: {_size(first)}; {bad} of {count} stages are bad."
    )


def notes(comparison: Comparison) -> tuple[str, ...]:
    """What a reader of the numbers should know beside them."""
    found = []
    for name, only in (
        (comparison.a.name, comparison.only_a),
        (comparison.b.name, comparison.only_b),
    ):
        if only:
            found.append(f"{len(only)} stages of {name} alone, such as {only[0]}")
    sketched = sum(one.sketched for one in comparison.differences)
    if sketched:
        found.append(f"{sketched} stages are known by sketches: their distances are within 15 %")
    shown = comparison.pictures
    if shown is not None:
        likeness = "" if shown.clip_cosine is None else f", CLIP cosine {shown.clip_cosine:.4f}"
        found.append(f"pictures: PSNR {shown.psnr_db:.1f} dB, SSIM {shown.ssim:.5f}{likeness}")
    return tuple(found)


def _size(difference: Difference) -> str:
    if not difference.measures.finite:
        return "NaN or infinity"
    found = f"relative L2 {difference.measures.relative_l2:.2g} of {difference.limit:.2g} allowed"
    ratio = difference.ratio
    return found if ratio is None else f"{found}, {ratio:.1f} × floor"
