"""What to look at next, by where two runs part and by how."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.backend.stages import kind_of
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.measures import Difference, Measures
from ipa.parity.compare.verdict import MOST_KINDS, Verdict, short

_FACTOR, _ALIKE, _UNLIKE = 1e-3, 0.999, 0.2
_FEW = 1e-3
"""The ratio of median to largest error below which few numbers make the error."""


def advice(comparison: Comparison) -> tuple[str, ...]:
    """Advice in sentences: what the numbers say of the fault, what is usual there, what to run.

    Where nothing is bad, what that does and does not show.
    """
    of = comparison.verdict
    if of.first is None:
        return tuple(_of_a_good_run(comparison))
    return tuple(_of_a_bad_run(comparison, of, of.first))


def _of_a_good_run(comparison: Comparison) -> Iterator[str]:
    far = comparison.verdict.worst
    if far is None:
        yield "Choose stages that both runs have."
        return
    if far.ratio is not None:
        yield "Near 1 × floor, the two differ by no more than their precision makes them."
    elif far.measures.relative_l2:
        yield (
            "No noise floor was measured, so the limits are fixed ones: a run of either side in "
            "its lower precision would tell what rounding alone makes."
        )
    yield "No stage is beyond its limit: there is nothing to look for."
    if comparison.only_a or comparison.only_b:
        yield "Stages that only one run has prove nothing: they are listed at the end."


def _of_a_bad_run(comparison: Comparison, of: Verdict, first: Difference) -> Iterator[str]:
    yield from _by_numbers(first.measures)
    yield from _usual(first)
    total = of.bad
    if comparison.mode == "teacher-forced":
        for kind in of.kinds[1:MOST_KINDS]:
            what = " ".join(_usual(kind.worst))
            yield f"Also {kind.name}, {kind.count:,} of them: {what}".strip()
    if comparison.mode == "teacher-forced":
        yield (
            f"Every stage was given the input of {comparison.a.name}, so each of the {total:,} bad "
            "stages has an error of its own."
        )
    elif total > 1:
        yield (
            f"{total:,} stages are beyond their limits; those after the first may only have "
            "inherited it. With teacher forcing each error stays where it is made."
        )


def _usual(one: Difference) -> Iterator[str]:
    kind = kind_of(one.stage)
    if kind is not None and kind.advice:
        yield kind.advice


def _by_numbers(of: Measures) -> Iterator[str]:
    if not of.finite:
        yield "Look for an overflow: the same run in float32 shows whether it is the precision's."
        return
    if of.cosine > _ALIKE and abs(of.slope - 1) > _FACTOR:
        yield f"The two point the same way, but b is {short(of.slope, 4)} times a: a factor."
    elif of.cosine < _UNLIKE:
        yield (
            f"The two are hardly alike (cosine {short(of.cosine)}): other weights, another input, "
            "or another order of rows or channels."
        )
    if of.quantiles[0] < _FEW * of.max_abs:
        yield "Most numbers agree and a few are far off: look at edges, single channels or rows."
