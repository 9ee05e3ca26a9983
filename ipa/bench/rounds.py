"""Rounds over all groups: one process a repeat, arms in turn, within a limit of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event

from ipa.errors import RequestError

from .cases import Case, Group
from .process import Outcome, run_process

Estimate = Callable[[Group, Sequence["Turn"]], float | None]
"""Seconds that a group will take, from the turns before; None where nothing tells."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One process: its place in the order, the group that it measured, and what came of it."""

    repeat: int
    group: Group
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Rounds:
    """All that was measured, in order, and what was left out, with the reason."""

    turns: list[Turn] = field(default_factory=list)
    left_out: dict[Case, str] = field(default_factory=dict)

    def of(self, group: Group) -> list[Turn]:
        """The turns of a group, as far as they found something."""
        return [turn for turn in self.turns if turn.group == group and not turn.outcome.failure]


def measure(
    groups: Sequence[Group],
    *,
    repeats: int,
    runs: int,
    limit: float | None = None,
    estimate: Estimate = lambda group, turns: None,
    on_turn: Callable[[int, Group], None] = lambda repeat, group: None,
    cancel: Event | None = None,
) -> Rounds:
    """Measure every group once in each repeat, in turn.

    Args:
        groups: The arms, each a process.
        repeats: Processes of each.
        runs: Runs of each case in a process, after the first.
        limit: Seconds for all of it: what will not fit, or did not, is left out.
        estimate: Seconds of a group that was not measured yet.
        on_turn: Is told before each.
        cancel: Ends it.

    Raises:
        Cancelled: `cancel` was set.
        RequestError: There is nothing to repeat.
    """
    check_counts(repeats, runs)
    began, done = time.perf_counter(), Rounds()
    failed: set[Group] = set()
    for repeat in range(repeats):
        for group in groups:
            if group in failed:
                continue
            left = None if limit is None else limit - (time.perf_counter() - began)
            expected = _expected(group, done, estimate)
            if left is not None and expected > left:
                _leave_out(done, group, _too_long(expected, left))
                continue
            on_turn(repeat, group)
            outcome = run_process(group, runs, limit=left, cancel=cancel)
            done.turns.append(Turn(repeat, group, outcome))
            if outcome.failure:
                failed.add(group)
                _leave_out(done, group, outcome.failure)
    return done


def check_counts(repeats: int, runs: int) -> None:
    """Raise RequestError unless there is at least one of each."""
    for name, count in (("repeats", repeats), ("runs", runs)):
        if not 1 <= count <= 1000:
            raise RequestError(f"{name} must be from 1 to 1000", found=str(count))


def _expected(group: Group, done: Rounds, estimate: Estimate) -> float:
    """Seconds that a group will take: as long as it did, or what is estimated."""
    before = [turn.outcome.seconds for turn in done.of(group)]
    return max(before) if before else estimate(group, done.turns) or 0.0


def _too_long(expected: float, left: float) -> str:
    return f"it takes about {expected:.0f} s, and {max(left, 0):.0f} s were left"


def _leave_out(done: Rounds, group: Group, reason: str) -> None:
    for case in group if not done.of(group) else ():  # a repeat less is no arm less
        done.left_out.setdefault(case, reason)
