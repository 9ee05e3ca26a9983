"""One process of a run: it draws mutants, judges them, and keeps those that reach new code."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from fuzz import corpus
from fuzz.attempt import Examiner, Verdict
from fuzz.mutants import kind, mutant

_REPORT_SECONDS = 2.0
_FAVOUR = 0.5  # of the draws take one of the newest inputs


@dataclass(frozen=True, slots=True)
class Share:
    """What one process has to do; its mutants follow from seed and number alone."""

    number: int
    seed: int
    inputs: int
    minutes: float
    folder: Path


@dataclass(slots=True)
class Tally:
    """What it has done. Failures by kind: the file that showed it first, and the details."""

    inputs: int = 0
    accepted: int = 0
    containers: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    novelties: int = 0
    slowest_ms: float = 0.0
    largest_ratio: float = 0.0
    largest_excess: int = 0
    failures: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, data: bytes, verdict: Verdict) -> None:
        """Count one input."""
        self.inputs += 1
        self.accepted += verdict.accepted
        self.containers[kind(data)] += 1
        self.slowest_ms = max(self.slowest_ms, round(1000 * verdict.seconds, 1))
        if len(data) >= 1 << 16:  # below that Python's own few KiB are most of it
            self.largest_ratio = max(self.largest_ratio, round(verdict.peak / len(data), 2))
        self.largest_excess = max(self.largest_excess, verdict.peak - 2 * len(data))


def work(share: Share, messages: Connection) -> None:
    """The process: reports dicts with its tally, the last one with done=True."""
    draw = Random(f"{share.seed}-{share.number}")
    examiner, tally = Examiner(), Tally()
    path, saved = share.folder / f"input-{share.number}", list(corpus.load().values())
    for data in (*saved, *saved):  # twice: what is built at first use is built
        path.write_bytes(data)
        examiner.examine(path)
    pools = {kind(one): [data for data in saved if kind(data) == kind(one)] for one in saved}
    base, began, told = examiner.novelties, time.monotonic(), 0.0
    while tally.inputs < share.inputs and time.monotonic() - began < 60 * share.minutes:
        pool = pools[draw.choice(sorted(pools))]
        newest = pool[-50:] if draw.random() < _FAVOUR else pool
        data = mutant(draw.choice(newest), pools[draw.choice(sorted(pools))], draw)
        path.write_bytes(data)
        verdict = examiner.examine(path)
        tally.add(data, verdict)
        tally.novelties = examiner.novelties - base
        if verdict.failure:
            _keep_failure(share.folder, data, verdict, tally)
        elif verdict.novelty:
            pools[kind(data)].append(data)
            tally.kept += 1
        if time.monotonic() - told > _REPORT_SECONDS:
            told = time.monotonic()
            messages.send(_as_message(tally, done=False))
    messages.send(_as_message(tally, done=True))


def _keep_failure(folder: Path, data: bytes, verdict: Verdict, tally: Tally) -> None:
    """The first and smallest file of each kind of failure."""
    known = tally.failures.get(verdict.failure)
    if known is not None and len(data) >= Path(known["file"]).stat().st_size:
        return
    name = "".join(c if c.isalnum() else "-" for c in verdict.failure)[:60]
    file = folder / f"failure-{name}.bin"
    file.write_bytes(data)
    tally.failures[verdict.failure] = {"file": str(file), "detail": verdict.detail[-1000:]}


def _as_message(tally: Tally, *, done: bool) -> dict[str, Any]:
    return {**asdict(tally), "containers": dict(tally.containers), "done": done}
