"""`ipa-mlx doctor --bench`: seconds a step of models of true size, within a limit of time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event

from ipa.app.terminal import ProgressBar
from ipa.bench.cases import Case, Group
from ipa.bench.conditions import SWITCHES, state
from ipa.bench.report import Measurement, gigabytes, short_seconds, table
from ipa.bench.rounds import Rounds, Turn, measure
from ipa.bench.summary import Arm, arms
from ipa.bench.work import operations, weights

REPEATS, RUNS = 3, 2
LIMIT = 300.0
"""Seconds that checks and times may take together, if nobody said otherwise."""

_ROOM = 0.75  # of the machine's memory: the rest is the system's
_BESIDE = 3 << 29  # bytes that a step needs beside weights, in half precision
_STARTING, _PER_GIGABYTE = 8.0, 2.0  # seconds, of a process; and to make its weights
_WINOGRAD, _TF32 = "MLX_CONV_WINOGRAD", "MLX_ENABLE_TF32"
_ROUTE = "IPA_MLX_CONV_ROUTE"
_TOLD = ("load", "power", _TF32, *SWITCHES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What to measure: where, for how long, and whether the demo's sizes alone."""

    limit: float = LIMIT
    is_small: bool = False


def measured(
    wish: Wish, backend: str, facts: Mapping[str, str], bar: ProgressBar, cancel: Event | None
) -> Measurement:
    """Measure what fits into the time and the memory.

    Raises:
        Cancelled: `cancel` was set.
    """
    wanted, before = trials(backend, facts, is_small=wish.is_small), state()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    refused = {group: why for group in wanted if (why := too_large(group, facts, memory))}
    groups = [group for group in wanted if group not in refused]
    rounds = measure(
        groups,
        repeats=REPEATS,
        runs=RUNS,
        limit=wish.limit,
        estimate=lambda group, turns: estimate(group, turns, facts),
        on_turn=lambda repeat, group: bar.describe(f"{group[0].name}, repeat {repeat + 1}"),
        cancel=cancel,
    )
    for group, why in refused.items():
        rounds.left_out.update(dict.fromkeys(group, why))
    return Measurement.of(groups, rounds, before)


def trials(backend: str, facts: Mapping[str, str], *, is_small: bool) -> list[Group]:
    """The groups to measure, the most wanted first."""
    device = facts.get("device") if backend == "torch" else None
    usual = Case(program=backend, stage="step", device=device)
    if is_small:
        return [_off_and_on(replace(usual, base="demo", width=64, height=64))]
    on_cpu = _on_cpu(facts)
    sizes = [("sd15", 256)] * on_cpu + [("sd15", 512), ("sdxl", 1024)]
    plain = [replace(usual, base=base, width=side, height=side) for base, side in sizes]
    groups = [_off_and_on(case) for case in plain]
    if backend == "mlx" and not on_cpu:
        step = plain[0]
        groups += [(replace(step, settings=((_ROUTE, value),)),) for value in ("mlx", "unfold")]
        groups += [(replace(step, settings=((_WINOGRAD, value),)),) for value in ("1", "0")]
        wide = replace(step, dtype="float32")
        groups += [(replace(wide, settings=((_TF32, value),)),) for value in ("1", "0")]
    return groups


def too_large(group: Group, facts: Mapping[str, str], memory: int) -> str:
    """Why a machine of so many bytes of memory cannot measure a group; "" if it can."""
    dtype = _precision(group[0], facts)
    needed = weights(group[0], dtype) + _BESIDE * (2 if dtype == "float32" else 1)
    if needed <= _ROOM * memory:
        return ""
    return f"it needs about {needed / 2**30:.1f} GiB, and there are {memory / 2**30:.0f} in all"


def estimate(group: Group, turns: Sequence[Turn], facts: Mapping[str, str]) -> float | None:
    """Seconds that a group will take, by the rate of those before; None before there is one."""
    before = arms(list(dict.fromkeys(turn.group for turn in turns)), Rounds(turns=list(turns)))
    if not before:
        return None
    rate = before[-1].rates[-1] * 1e9 * min(arm.share for arm in before)
    work = sum(operations(case) for case in group) * (1 + RUNS)
    making = _PER_GIGABYTE * weights(group[0], _precision(group[0], facts)) / 1e9
    return _STARTING + making + work / rate


def lines(of: Measurement) -> Iterator[str]:
    """What was measured as Markdown."""
    head = ["a step", "precision", "seconds", "range", "adapter", "of products", "GB"]
    if of.arms:
        yield from table(head, map(_row, of.arms))
    yield from (f"- left out: {name}: {why}" for name, why in of.left_out.items())
    told = (f"{name} {of.conditions[name]}" for name in _TOLD if name in of.conditions)
    yield f"- timed under: {'; '.join(told)}"


def _row(arm: Arm) -> list[str]:
    time = arm.time
    costs = "" if arm.ratio is None else f"{arm.ratio.median - 1:+.1%}"
    return [
        arm.case.name,
        arm.case.dtype or "as usual",
        short_seconds(time.median),
        f"{short_seconds(time.low)} to {short_seconds(time.high)}",
        costs,
        f"{arm.share:.0%}",
        gigabytes(arm),
    ]


def _off_and_on(case: Case) -> Group:
    return case, replace(case, adapters=1)


def _on_cpu(facts: Mapping[str, str]) -> bool:
    return "cpu" in facts.get("device", "")


def _precision(case: Case, facts: Mapping[str, str]) -> str:
    return case.dtype or ("float32" if _on_cpu(facts) else "float16")
