"""What the doctor found, as values, as JSON and as Markdown to be pasted into an issue."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ipa.bench.report import Measurement
from ipa.bench.report import plain as bench_plain
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.verdict import short, worst_first
from ipa.parity.report.machine import json_report

from .bench import lines as bench_lines

_WORST = 5
_PATH = re.compile(r"(?<![\w.…])(?:[A-Za-z]:)?[/\\](?:[^\s|`'\",;:]*[/\\])+")
"""A pattern for paths: the folders up to the last name; stages have no slash in front."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check of the doctor's and its outcome; `comparison` where it was a run."""

    name: str
    ok: bool
    found: str
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for one step, with guidance, of a model in a precision."""

    model: str
    dtype: str
    seconds_per_step: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """The checks, speeds, facts of the machine, and notes: what facts mean and what to do.

    `bench` is what `--bench` measured.
    """

    backend: str
    facts: Mapping[str, str]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    speeds: tuple[Speed, ...]
    seconds: float
    bench: Measurement | None = None

    @property
    def ok(self) -> bool:
        """Whether every check is good."""
        return all(check.ok for check in self.checks)

    @property
    def first_bad(self) -> Check | None:
        """The check that failed first."""
        return next((check for check in self.checks if not check.ok), None)

    @property
    def verdict(self) -> str:
        """The outcome in one sentence."""
        bad = self.first_bad
        if bad is None:
            return f"Healthy: {self.backend} computes here what was recorded."
        return f"Not healthy: {bad.name}: {bad.found}"


def markdown(of: Diagnosis) -> str:
    """A diagnosis as Markdown for an issue, without folders of this machine."""
    lines = [f"### ipa-mlx doctor, {of.backend}", "", f"**{of.verdict}**", ""]
    lines += ["| check | | |", "|---|---|---|"]
    for check in of.checks:
        found = "see above" if check is of.first_bad else _cell(check.found)
        lines.append(f"| {check.name} | {'good' if check.ok else 'BAD'} | {found} |")
    for check in of.checks:
        if check.comparison is not None:
            lines += ["", *_stages(check.name, check.comparison)]
    if of.speeds:
        lines += ["", "| speed | precision | seconds per step |", "|---|---|---|"]
        lines += [f"| {s.model} | {s.dtype} | {short(s.seconds_per_step, 3)} |" for s in of.speeds]
    if of.bench is not None:
        lines += ["", *bench_lines(of.bench)]
    lines += ["", *(f"- {_cell(note)}" for note in of.notes)] if of.notes else []
    lines += ["", "| machine | |", "|---|---|"]
    lines += [f"| {name} | {_cell(fact)} |" for name, fact in of.facts.items()]
    return public("\n".join([*lines, "", f"Took {of.seconds:.0f} s."]))


def plain(of: Diagnosis) -> dict[str, Any]:
    """A diagnosis as JSON-able values; of comparisons, the worst stages alone."""
    return {
        "ok": of.ok,
        "verdict": public(of.verdict),
        "backend": of.backend,
        "checks": [
            {"name": check.name, "ok": check.ok, "found": public(check.found)}
            | ({"comparison": _short(check.comparison)} if check.comparison else {})
            for check in of.checks
        ],
        "speeds": [asdict(speed) for speed in of.speeds],
        "notes": [public(note) for note in of.notes],
        "facts": {name: public(fact) for name, fact in of.facts.items()},
        "seconds": round(of.seconds, 1),
        **({} if of.bench is None else {"bench": bench_plain(of.bench)}),
    }


def public(text: str) -> str:
    """A text without folders, which tell names of people: of a path, the last name is left."""
    for folder in (sys.prefix, str(Path.home()), str(Path.cwd())):
        if len(folder) > 1:
            text = text.replace(folder, "/…")
    return _PATH.sub("…/", text)


def _stages(name: str, comparison: Comparison) -> Iterator[str]:
    yield f"| {name}: furthest | relative L2 | limit | × floor |"
    yield "|---|---|---|---|"
    for one in worst_first(comparison.differences)[:_WORST]:
        ratio = "" if one.ratio is None else short(one.ratio)
        found = short(one.measures.relative_l2)
        yield f"| {one.stage} | {found} | {short(one.limit)} | {ratio} |"


def _short(comparison: Comparison) -> dict[str, Any]:
    report = json_report(comparison)
    worst = {one.stage for one in worst_first(comparison.differences)[:_WORST]}
    report["stages"] = [stage for stage in report["stages"] if stage["stage"] in worst]
    return {
        name: report[name] for name in ("verdict", "ok", "first_bad", "mode", "only_a", "stages")
    }


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
