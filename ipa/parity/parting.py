"""Two runs that are further apart than they may be."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.contract.errors import ParityError

from .comparison import Comparison
from .difference import Difference
from .figures import short
from .stages import kind_of, split
from .verdict import parting, verdict

WORST = 5


class PartingError(ParityError, AssertionError):
    """Stages are beyond their limits; the message is the verdict and the worst of them.

    Args:
        comparison: What was found.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        super().__init__(sentence(comparison))

    def __str__(self) -> str:
        return "\n".join([self.args[0], *table(worst(self.comparison, WORST))])


def sentence(comparison: Comparison) -> str:
    """`verdict`, also of arrays, whose names mean nothing to it."""
    first = parting(comparison)
    if first is None or kind_of(split(first.stage)[1]) is not None:
        return verdict(comparison)
    bad = sum(one.bad for one in comparison.differences)
    found = short(first.measures.relative_l2) if first.measures.finite else "NaN or infinity"
    return (
        f"{first.stage} is the first that is off: relative L2 {found}, limit {short(first.limit)}; "
        f"{bad} of {len(comparison.differences)} are"
    )


def worst(comparison: Comparison, count: int) -> list[Difference]:
    """Those that are the most times their limits, the worst first."""
    found = sorted(comparison.differences, key=_share, reverse=True)
    return found[:count]


def table(differences: list[Difference]) -> Iterator[str]:
    """A line for each, in columns."""
    width = max((len(one.stage) for one in differences), default=0)
    yield f"{'stage':{width}}  relative L2    limit  × floor  max abs"
    for one in differences:
        of = one.measures
        ratio = "" if one.ratio is None else short(one.ratio)
        yield (
            f"{one.stage:{width}}  {short(of.relative_l2):>11}  {short(one.limit):>7}  {ratio:>7}  "
            f"{short(of.max_abs):>7}{'  bad' if one.bad else ''}"
        )


def _share(one: Difference) -> float:
    return one.measures.relative_l2 / one.limit
