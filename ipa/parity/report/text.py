"""What a comparison found, in words and in a few rows."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.backend.stages import split
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.measures import Difference
from ipa.parity.compare.verdict import worst_first


@dataclass(frozen=True, slots=True)
class PhaseSummary:
    """One phase of a run: how many of its stages are bad, and the worst by its limit."""

    phase: str
    stages: int
    bad: int
    worst: Difference


def phases(comparison: Comparison) -> tuple[PhaseSummary, ...]:
    """Summaries of the phases, in the order of the run."""
    groups: dict[str, list[Difference]] = {}
    for one in comparison.differences:
        groups.setdefault(split(one.stage)[0], []).append(one)
    return tuple(
        PhaseSummary(phase, len(group), sum(one.bad for one in group), worst_first(group)[0])
        for phase, group in groups.items()
    )


def notes(comparison: Comparison) -> tuple[str, ...]:
    """Notes to read beside the numbers."""
    found = list(comparison.notes)
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
