"""`make parity-table`: whole runs of both backends against diffusers' own pipelines, as Markdown.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.table
    PYTHONPATH=tests .venv/bin/python -m benchmarks.table --rows "unipc.*50" --backend mlx

Tiny random models of odd shapes, float32, a CPU, the same seeds. A figure is the relative L2
distance of latents: the largest after any evaluation of the network. The exit code is 1 if one is
above its bound. Progress goes to the standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import transformers
from huggingface_hub.utils import disable_progress_bars

from ipa_mlx.blas import preload
from oracle.measure import relative
from oracle.runs import (
    adapted,
    controlled_editing,
    controls,
    editing,
    faces,
    forecast,
    image_prompts,
    loras,
    masks,
    reuse,
    samplers,
    texts,
    xl,
)
from oracle.runs.suite import LIMITS, Array, Limits, Suite
from oracle.watch import our_steps, their_steps
from oracle.workshop import Workshop

BOUNDS: Limits = {backend: LIMITS[backend] for backend in ("mlx", "torch")}
# Where diffusers' own float32 is further from its float64 than a bound. Two levels lie side by
# side there, and DEIS's integrals over them cancel: diffusers is 7.5e-4 (absolute, latents of 50)
# from itself in float64, ours 3e-13 (`oracle.schedulers.deviation`).
ROUNDED: Mapping[str, float] = {"deis_beta, 50 steps": 2e-4}
SUITES: tuple[Suite, ...] = (
    image_prompts.SUITE,
    masks.SUITE,
    faces.SUITE,
    xl.SUITE,
    controls.SUITE,
    adapted.SUITE,
    loras.SUITE,
    editing.SUITE,
    controlled_editing.SUITE,
    texts.SUITE,
    texts.SKIP,
    samplers.SUITE,
    reuse.SUITE,
    forecast.SUITE,
)
PACKAGES = ("diffusers", "transformers", "torch", "mlx")
COMMAND = "make -s parity-table > PARITY.md"


@dataclass(frozen=True)
class Distance:
    """Of a backend from diffusers: after the evaluation where it is worst, and at the end."""

    worst: float
    final: float


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        suite: Its kind.
        name: Its case.
        judge: diffusers' pipeline and scheduler.
        compared: After how many evaluations latents were compared.
        distances: By backend.
        limits: What the final latents are held to, as in the tests.
    """

    suite: str
    name: str
    judge: str
    compared: int
    distances: Mapping[str, Distance]
    limits: Limits = field(default_factory=lambda: BOUNDS)

    @property
    def is_sound(self) -> bool:
        """Whether every figure is a number within its bound."""
        return all(
            distance.worst <= self.bound(BOUNDS[backend])
            and distance.final <= self.bound(self.limits[backend])
            for backend, distance in self.distances.items()
        )

    def bound(self, usual: float) -> float:
        """What a figure may be where it usually may be so much."""
        return max(usual, ROUNDED.get(self.name, 0.0))


def chosen(pattern: str) -> list[tuple[Suite, str]]:
    """The rows whose "kind: case" a regular expression finds, in order."""
    wanted = re.compile(pattern, re.IGNORECASE)
    return [(s, name) for s in SUITES for name in s.all if wanted.search(f"{s.title}: {name}")]


def measure(suite: Suite, name: str, workshop: Workshop, backends: Sequence[str]) -> Row:
    """Run diffusers and each backend once."""
    case = suite.all[name]
    with their_steps() as theirs:
        expected = suite.theirs(case, workshop)
    distances, compared = {}, 1
    for backend in backends:
        with our_steps() as ours:
            found = suite.ours(case, workshop, backend)
        distances[backend] = distance(ours.latents, theirs.latents, found, expected)
        compared = max(1, len(theirs.latents) * (len(ours.latents) == len(theirs.latents)))
    return Row(suite.title, name, theirs.judge, compared, distances, suite.limits)


def distance(
    ours: Sequence[Array], theirs: Sequence[Array], found: Array, expected: Array
) -> Distance:
    """Of the latents after every evaluation, where diffusers tells all, and of the final ones."""
    final = relative(found, expected)
    pairs = zip(ours, theirs, strict=True) if len(ours) == len(theirs) else ()
    steps = [relative(a, b) for a, b in pairs]
    return Distance(float(np.max([final, *steps])), final)  # NaN, if one is


def rows(
    wanted: Sequence[tuple[Suite, str]], workshop: Workshop, backends: Sequence[str]
) -> Iterator[Row]:
    """Measure one after another, and say so on the standard error."""
    for number, (suite, name) in enumerate(wanted, start=1):
        began = time.perf_counter()
        try:
            row = measure(suite, name, workshop, backends)
        except Exception as error:  # noqa: BLE001 - one run must not cost the others' figures
            traceback.print_exc()
            nothing = dict.fromkeys(backends, Distance(math.nan, math.nan))
            row = Row(suite.title, name, f"raised {type(error).__name__}", 0, nothing)
        seconds = time.perf_counter() - began
        figures = ", ".join(f"{b} {d.worst:.1e}" for b, d in row.distances.items())
        verdict = "" if row.is_sound else " FAIL"
        print(
            f"{number}/{len(wanted)} {suite.title}: {name}: {figures}{verdict} ({seconds:.1f} s)",
            file=sys.stderr,
            flush=True,
        )
        yield row


def markdown(found: Sequence[Row], backends: Sequence[str]) -> str:
    """A table for each kind of run, with what all are held to in front."""
    usual = [row for row in found if row.name not in ROUNDED] or found
    worst = {b: np.max([row.distances[b].worst for row in usual]) for b in backends}
    failed = sum(not row.is_sound for row in found)
    bounds = ", ".join(f"{b} ≤ {BOUNDS[b]:.0e} (worst: {worst[b]:.1e})" for b in backends)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        "# Parity with diffusers",
        "",
        f"Printed by `{COMMAND}`: {len(found)} whole runs on tiny random models of odd shapes, in",
        "float32 on a CPU, each by diffusers' own pipeline and by ours with the same seeds.",
        f"{versions}.",
        "",
        "A figure is the relative L2 distance of the latents, the largest after any evaluation of",
        "the network; *n* is how many were compared (1: the last alone).",
        f"Bounds: {bounds}. Above their bound: {failed}.",
        *(
            f"† {name} ≤ {bound:.0e}: diffusers in float32 is as far from itself in float64."
            for name, bound in ROUNDED.items()
            if any(row.name == name for row in found)
        ),
    ]
    for title in dict.fromkeys(row.suite for row in found):
        lines += ["", f"## {title}", "", *_head(backends)]
        lines += [_line(row, backends) for row in found if row.suite == title]
    return "\n".join(lines)


def _head(backends: Sequence[str]) -> list[str]:
    columns = ["Run", "Judge", "n", *backends, ""]
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def _line(row: Row, backends: Sequence[str]) -> str:
    figures = [f"{row.distances[b].worst:.1e}" for b in backends]
    verdict = ("ok †" if row.name in ROUNDED else "ok") if row.is_sound else "**FAIL**"
    return f"| {' | '.join([row.name, row.judge, str(row.compared), *figures, verdict])} |"


def record(found: Sequence[Row]) -> dict[str, Any]:
    """The same for a program."""
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "bounds": dict(BOUNDS),
        "rows": [asdict(row) | {"ok": row.is_sound} for row in found],
    }


def hush() -> None:
    """What libraries say of tiny models would hide the progress."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    disable_progress_bars()
    warnings.simplefilter("ignore")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="", help='regular expression on "kind: case"')
    parser.add_argument("--backend", choices=BOUNDS, help="one of them alone")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and say by the exit code whether all are within their bounds."""
    asked = options()
    wanted = chosen(asked.rows)
    if not wanted:
        print(f"no row matches {asked.rows!r}", file=sys.stderr)
        return 2
    preload()
    hush()
    backends = [asked.backend] if asked.backend else list(BOUNDS)
    with tempfile.TemporaryDirectory() as place:
        found = list(rows(wanted, Workshop(Path(place)), backends))
    print(markdown(found, backends))
    if asked.json:
        asked.json.write_text(json.dumps(record(found), indent=2))
    return int(not all(row.is_sound for row in found))


if __name__ == "__main__":
    sys.exit(main())
