"""Two runs that are further apart than they may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipa.contract.errors import ParityError

from .comparison import Comparison
from .difference import Difference
from .figures import short
from .verdict import worst_first

WORST = 5


class PartingError(ParityError, AssertionError):
    """Stages are beyond their limits; the message is the verdict and the worst of them.

    Args:
        comparison: What was found.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        super().__init__(comparison.verdict.sentence)

    def __str__(self) -> str:
        return "\n".join([self.args[0], *table(worst_first(self.comparison.differences)[:WORST])])


def table(differences: Sequence[Difference]) -> Iterator[str]:
    """A line for each, in columns."""
    width = max((len(one.stage) for one in differences), default=0)
    yield f"{'stage':{width}}  relative L2    limit  × floor  max abs    slope     bias"
    for one in differences:
        of = one.measures
        ratio = "" if one.ratio is None else short(one.ratio)
        yield (
            f"{one.stage:{width}}  {short(of.relative_l2):>11}  {short(one.limit):>7}  {ratio:>7}  "
            f"{short(of.max_abs):>7}  {short(of.slope, 4):>7}  {short(of.bias):>7}"
            f"{'  bad' if one.bad else ''}"
        )
