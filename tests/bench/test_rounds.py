"""Processes of a measurement: their order, their limit, and how they end."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ipa.bench import process, rounds
from ipa.bench.cases import Case, Group
from ipa.bench.process import Outcome, run_process
from ipa.errors import Cancelled, RequestError

A, B, C = (
    (Case(program="mlx", stage=stage, base="demo", width=64, height=64),)
    for stage in ("step", "decode", "encode")
)


class Processes:
    """Stand-ins that take so many seconds of a clock of their own."""

    def __init__(self, seconds: dict[Group, float], failing: Sequence[Group] = ()) -> None:
        self.seconds, self.failing, self.now = seconds, failing, 0.0
        self.order: list[Group] = []

    def run(self, group: Group, runs: int, *, limit: float | None, cancel: Any) -> Outcome:
        self.order.append(group)
        taken = self.seconds[group]
        if limit is not None and taken > limit:
            self.now += limit
            return Outcome(limit, failure="the time was up", late=True)
        self.now += taken
        failure = "killed" if group in self.failing else ""
        return Outcome(taken, {"cases": []}, failure=failure)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    def measure(stand_in: Processes, groups: Sequence[Group], **how: Any) -> rounds.Rounds:
        monkeypatch.setattr(rounds, "run_process", stand_in.run)
        monkeypatch.setattr(rounds.time, "perf_counter", lambda: stand_in.now)
        return rounds.measure(groups, runs=1, **how)

    return measure


def test_arms_take_turns(measured: Any) -> None:
    stand_in = Processes({A: 1, B: 1, C: 1})
    found = measured(stand_in, [A, B, C], repeats=3)
    assert stand_in.order == [A, B, C] * 3
    assert [turn.repeat for turn in found.turns] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert not found.left_out


def test_what_failed_is_told_and_not_tried_again(measured: Any) -> None:
    stand_in = Processes({A: 1, B: 1}, failing=[B])
    found = measured(stand_in, [A, B], repeats=2)
    assert stand_in.order == [A, B, A]
    assert found.left_out == {B[0]: "killed"}


def test_the_limit_is_kept(measured: Any) -> None:
    """B is measured once: a second time would not fit. C is estimated, and left out."""
    stand_in = Processes({A: 10, B: 40, C: 1000})
    found = measured(
        stand_in,
        [A, B, C],
        repeats=3,
        limit=80,
        estimate=lambda group, turns: 500.0 if group == C else None,
    )
    assert stand_in.order == [A, B, A, A]
    assert stand_in.now <= 80
    assert found.left_out == {C[0]: "it takes about 500 s, and 30 s were left"}


def test_what_nothing_tells_of_is_ended_at_the_limit(measured: Any) -> None:
    stand_in = Processes({A: 1000})
    found = measured(stand_in, [A], repeats=3, limit=20)
    assert (stand_in.order, stand_in.now) == ([A], 20)
    assert found.left_out == {A[0]: "the time was up"}


@pytest.mark.parametrize("how", [{"repeats": 0}, {"repeats": -1}, {"repeats": 10**9}])
def test_nothing_to_repeat(measured: Any, how: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="repeats must be from 1 to 1000; found: "):
        measured(Processes({}), [A], **how)


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Other code in place of the worker's."""

    def put(code: str) -> None:
        monkeypatch.setattr(process, "_WORKER", (sys.executable, "-c", code))

    return put


def test_a_process_that_is_killed_is_explained(instead: Any) -> None:
    instead("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "where memory runs out" in run_process(A, 1).failure


def test_a_process_that_fails_says_its_last_line(instead: Any) -> None:
    instead("raise ValueError('no such thing')")
    assert run_process(A, 1).failure == "its process ended with 1: ValueError: no such thing"


def test_a_process_is_ended_at_its_limit(instead: Any, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    instead(
        f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); "
        "time.sleep(600)"
    )
    found = run_process(A, 1, limit=1.0)
    assert (found.late, found.failure) == (True, "the time was up")
    _gone(note)


def test_a_process_is_ended_where_the_measurement_is(instead: Any, tmp_path: Path) -> None:
    note, cancel = tmp_path / "pid", threading.Event()
    instead(
        f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); "
        "time.sleep(600)"
    )
    threading.Timer(1.0, cancel.set).start()
    with pytest.raises(Cancelled):
        run_process(A, 1, cancel=cancel)
    _gone(note)


def _gone(note: Path) -> None:
    """The process that left its number is no more."""
    if not note.exists():
        return  # ended before it began
    import os

    for _ in range(100):
        try:
            os.kill(int(note.read_text()), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(int(note.read_text()), signal.SIGKILL)
    raise AssertionError("it still runs")
