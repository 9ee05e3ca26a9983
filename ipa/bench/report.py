"""A measurement as JSON, and as tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .cases import Group
from .conditions import conditions
from .rounds import Rounds
from .summary import Arm, Growth, Spread, arms, growth

FORMAT = "ipa-mlx-bench/1"
"""What JSON says it is: a new number where a field changes its meaning."""

_GIGA = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """All that is told of a measurement.

    `order` is that of the processes: the repeat, and the names of the arms in it.
    """

    conditions: Mapping[str, str]
    arms: tuple[Arm, ...]
    growth: tuple[Growth, ...]
    order: tuple[tuple[int, tuple[str, ...]], ...]
    left_out: Mapping[str, str]

    @classmethod
    def of(cls, groups: Sequence[Group], rounds: Rounds, before: Mapping[str, str]) -> Measurement:
        """Sum rounds up; `before` is the machine's state when they began."""
        found = arms(groups, rounds)
        turns = ((turn.repeat, tuple(c.name for c in turn.group)) for turn in rounds.turns)
        return cls(
            conditions=conditions(rounds.turns, before),
            arms=tuple(found),
            growth=tuple(growth(found)),
            order=tuple(turns),
            left_out={case.name: reason for case, reason in rounds.left_out.items()},
        )


def plain(of: Measurement) -> dict[str, Any]:
    """A measurement as JSON-able values."""
    return {
        "format": FORMAT,
        "conditions": dict(of.conditions),
        "arms": [_plain_arm(arm) for arm in of.arms],
        "growth": [asdict(row) for row in of.growth],
        "order": [{"repeat": repeat, "arms": list(names)} for repeat, names in of.order],
        "left_out": dict(of.left_out),
    }


def _plain_arm(arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.case.name,
        **arm.case.plain(),
        "seconds": [list(runs) for runs in arm.seconds],
        "first_seconds": list(arm.first),
        "loading_seconds": list(arm.loading),
        "median": arm.time.median,
        "low": arm.time.low,
        "high": arm.time.high,
        "operations": arm.operations,
        "gflops": arm.gflops,
        "machine_gflops": list(arm.rates),
        "share_of_machine": arm.share,
        "peak_bytes": arm.peak,
        "held_bytes": arm.held,
        "process_peak_bytes": arm.process_peak,
        "process_held_bytes": arm.process_held,
        "ratio": None if arm.ratio is None else asdict(arm.ratio),
        "ratio_to": None if arm.ratio_to is None else arm.ratio_to.name,
    }


def markdown(of: Measurement) -> str:
    """A measurement as tables of Markdown."""
    head = ["arm", "seconds", "range", "first", "ratio", "range", "GFLOP/s", "of products", "GB"]
    lines = ["### ipa-mlx bench", "", *table(head, map(_row, of.arms))]
    if of.growth:
        growing = ["growth", "over", "values", "seconds", "arithmetic", "bytes"]
        lines += ["", *table(growing, map(_growth_row, of.growth))]
    if of.left_out:
        lines += ["", *(f"- left out: {name}: {why}" for name, why in of.left_out.items())]
    lines += ["", *table(["conditions", ""], of.conditions.items()), "", _KEY]
    return "\n".join(lines)


_KEY = (
    "Seconds are the median of the repeats, each a process, without its first run; ratios are to "
    "the first program, or to the same without adapters, pair by pair. Of products: the share of "
    "this machine's own rate of matrix products. GB: the most that the framework had, or the "
    "process. Growth: p of xᵖ."
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines of a Markdown table."""
    lines: list[Sequence[str]] = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def short_seconds(seconds: float) -> str:
    """Seconds in three digits."""
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"


def _row(arm: Arm) -> list[str]:
    time, ratio = arm.time, arm.ratio
    return [
        arm.case.name,
        short_seconds(time.median),
        f"{short_seconds(time.low)} to {short_seconds(time.high)}",
        short_seconds(max(arm.first)),
        *_ratio(ratio),
        f"{arm.gflops:.3g}",
        f"{arm.share:.0%}",
        gigabytes(arm),
    ]


def gigabytes(arm: Arm) -> str:
    """The peak of memory: the framework's count, or the process'."""
    if arm.peak is not None:
        return f"{arm.peak / _GIGA:.2f}"
    return "" if arm.process_peak is None else f"{arm.process_peak / _GIGA:.2f} (process)"


def _ratio(ratio: Spread | None) -> Iterator[str]:
    if ratio is None:
        yield from ("", "")
        return
    yield f"{ratio.median:.3f}"
    yield f"{ratio.low:.3f} to {ratio.high:.3f}"


def _growth_row(row: Growth) -> list[str]:
    values = ", ".join(map(str, row.values))
    powers = ["" if p is None else f"{p:.2f}" for p in (row.seconds, row.arithmetic, row.bytes)]
    return [f"{row.program} {row.stage}", row.over, values, *powers]
