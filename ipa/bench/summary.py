"""What was measured in few numbers: medians and ranges, ratios, rates, and how things grow."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .cases import Case, Group, baseline
from .rounds import Rounds, Turn
from .work import operations


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some numbers, and the least and the most of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None where there is no number."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """What was found of a case.

    Attributes:
        case: The case.
        operations: Its arithmetic, counted from shapes.
        seconds: Of each run but the first, by repeat.
        first: Seconds of the first run of each repeat.
        loading: Seconds before it.
        rates: GFLOP/s of the machine's own product, of each repeat.
        peak: The most bytes that the framework had, in any run but the first.
        held: What it had before a run: weights, mostly.
        process_peak: The most bytes of the process, as the system counts.
        process_held: What it had before.
        ratio: Seconds over those of `ratio_to`, pair by pair.
        ratio_to: Another case.
    """

    case: Case
    operations: int
    seconds: tuple[tuple[float, ...], ...]
    first: tuple[float, ...]
    loading: tuple[float, ...]
    rates: tuple[float, ...]
    peak: int | None
    held: int | None
    process_peak: int | None
    process_held: int | None
    ratio: Spread | None = None
    ratio_to: Case | None = None

    @property
    def time(self) -> Spread:
        """Seconds: the median of the repeats' medians; the range is that of all runs."""
        every = [second for repeat in self.seconds for second in repeat]
        return Spread(statistics.median(self.per_repeat), min(every), max(every))

    @property
    def per_repeat(self) -> list[float]:
        """The median of each repeat's runs."""
        return [statistics.median(runs) for runs in self.seconds]

    @property
    def gflops(self) -> float:
        """GFLOP/s of its arithmetic, in the median time."""
        return self.operations / self.time.median / 1e9

    @property
    def share(self) -> float:
        """Of the machine's own rate of products: the median of the repeats' shares."""
        pairs = zip(self.per_repeat, self.rates, strict=True)
        return statistics.median(self.operations / 1e9 / s / rate for s, rate in pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """How a program's seconds and bytes grow with one number, as exponents.

    `seconds` is the p of the best seconds = c · xᵖ, and so on; `bytes` counts what a run needs
    beside what was held before it. `values` are the x.
    """

    program: str
    stage: str
    over: str
    values: tuple[int, ...]
    seconds: float
    arithmetic: float
    bytes: float | None


def arms(groups: Sequence[Group], rounds: Rounds) -> list[Arm]:
    """The arms of all groups that found something, with ratios."""
    found: dict[Case, Arm] = {}
    shared: dict[Case, Group] = {}
    for group in groups:
        turns = rounds.of(group)
        for place, case in enumerate(group):
            shared[case] = group
            if turns:
                found[case] = _arm(case, place, turns, operations(case))
    cases = list(found)
    return [_with_ratio(found[case], baseline(case, cases), found, shared) for case in cases]


def _arm(case: Case, place: int, turns: Sequence[Turn], count: int) -> Arm:
    told = [turn.outcome.found for turn in turns]
    own: list[Mapping[str, Any]] = [found["cases"][place] for found in told]
    return Arm(
        case=case,
        operations=count,
        seconds=tuple(tuple(one["seconds"]) for one in own),
        first=tuple(one["first"] for one in own),
        loading=tuple(found["loading"] for found in told),
        rates=tuple(statistics.median(found["gflops"]) for found in told),
        peak=_most(own, "peak"),
        held=_most(own, "held"),
        process_peak=_most(own, "process_peak"),
        process_held=_most(own, "process_held"),
    )


def _most(own: Sequence[Mapping[str, Any]], name: str) -> int | None:
    return max((one[name] for one in own if one[name] is not None), default=None)


def _with_ratio(
    arm: Arm, other: Case | None, found: Mapping[Case, Arm], shared: Mapping[Case, Group]
) -> Arm:
    """An arm with its ratio: run by run in one process, else repeat by repeat."""
    if other is None or other not in found:
        return arm
    base = found[other]
    if shared[arm.case] is shared[other]:
        ones, others = (sum(one.seconds, ()) for one in (arm, base))
    else:
        ones, others = tuple(arm.per_repeat), tuple(base.per_repeat)
    ratios = [a / b for a, b in zip(ones, others, strict=False)]  # one may have ended early
    return replace(arm, ratio=Spread.of(ratios), ratio_to=other)


_AXES: Mapping[str, Callable[[Case], int]] = {
    "pixels": lambda case: case.width * case.height,
    "batch": lambda case: case.batch,
    "adapters": lambda case: case.adapters,
    "steps": lambda case: case.steps,
}
_PLAIN: Mapping[str, Mapping[str, Any]] = {
    "pixels": {"width": 0, "height": 0},
    "batch": {"batch": 0},
    "adapters": {"adapters": 0},
    "steps": {"steps": 0},
}


def growth(found: Sequence[Arm]) -> list[Growth]:
    """The growth of every series: arms that differ in one number, which has several values."""
    rows = []
    for axis, read in _AXES.items():
        series: dict[Case, list[Arm]] = {}
        for arm in found:
            if read(arm.case) > 0:
                series.setdefault(replace(arm.case, **_PLAIN[axis]), []).append(arm)
        for members in series.values():
            values = tuple(read(arm.case) for arm in members)
            if len(set(values)) > 1:
                rows.append(_growth(axis, values, members))
    return rows


def _growth(axis: str, values: tuple[int, ...], members: Sequence[Arm]) -> Growth:
    case, bytes_needed = members[0].case, [_needed(arm) for arm in members]
    known = [count for count in bytes_needed if count]
    return Growth(
        program=case.program,
        stage=case.stage,
        over=axis,
        values=values,
        seconds=exponent(values, [arm.time.median for arm in members]),
        arithmetic=exponent(values, [arm.operations for arm in members]),
        bytes=exponent(values, known) if len(known) == len(values) else None,
    )


def _needed(arm: Arm) -> int | None:
    """Bytes that a run needs beside those that were held before."""
    pairs = ((arm.peak, arm.held), (arm.process_peak, arm.process_held))
    for most, before in pairs:
        if most is not None and before is not None:
            return max(most - before, 0)
    return None


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent p of the y = c · xᵖ that is nearest in logarithms (least squares).

    Args:
        xs: Positive numbers, of which two differ.
        ys: Positive numbers, as many.
    """
    logs = [[math.log(value) for value in values] for values in (xs, ys)]
    return statistics.linear_regression(*logs).slope
