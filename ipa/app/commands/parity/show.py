"""`ipa-mlx parity`: options become captures and comparisons, those become rows and files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from ipa.app.output import check_writable
from ipa.app.terminal import print_json, say
from ipa.backend.stages import chosen
from ipa.errors import IncompatibleCaptures, RequestError
from ipa.files import write_whole
from ipa.parity.budgets import Row
from ipa.parity.capture.capture import Capture
from ipa.parity.capture.sketch import Sketch
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.compatibility import request_differences
from ipa.parity.compare.measures import Difference
from ipa.parity.report.machine import json_report, junit
from ipa.parity.report.page.html import report
from ipa.parity.report.text import notes, phases
from ipa.pipeline.documents.replaying import not_restored
from ipa.pipeline.request_file import RequestFile


def parse_steps(text: str | None) -> frozenset[int] | None:
    """Parse step numbers with commas between them."""
    if text is None:
        return None
    try:
        return frozenset(int(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(
            "--steps is a list of numbers", found=repr(text)[:80], remedy="such as 0,10,19"
        ) from error


def check_options(options: Mapping[str, Any]) -> None:
    """Raise RequestError for options of `compare` that are known to be wrong before a run."""
    limit_rows(options["limit"] or ())
    for name in ("to_html", "to_json", "to_junit"):
        if options[name] is not None:
            check_writable(options[name])


def limit_rows(texts: Sequence[str]) -> tuple[Row, ...]:
    """Parse limits, [PATTERN=]NUMBER each."""
    found = []
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            limit = float(number)
        except ValueError as error:
            raise RequestError(
                "--limit is a number, or PATTERN=NUMBER", found=repr(text)[:80]
            ) from error
        if not 0 <= limit < float("inf"):
            raise RequestError("--limit is a number from 0", found=text[:80])
        found.append(Row(pattern or "*", limit=limit))
    return tuple(found)


def own_limits(texts: Sequence[str], stages: Iterable[str]) -> dict[str, float]:
    """Limits by stage; of several patterns that match one, the last.

    Raises:
        RequestError: A pattern matches none.
    """
    names = list(stages)
    limits: dict[str, float] = {}
    for row in limit_rows(texts):
        limits |= dict.fromkeys(chosen([row.pattern], names), row.limit or 0.0)
    return limits


class PatternLimits(Mapping[str, float]):
    """Limits by pattern, looked up for stages whose names are not known beforehand."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._rows = {row.pattern: row.limit or 0.0 for row in limit_rows(texts)}

    def __getitem__(self, stage: str) -> float:
        for pattern in reversed(self._rows):
            if fnmatchcase(stage, pattern):
                return self._rows[pattern]
        raise KeyError(stage)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def show_lost(request: RequestFile) -> None:
    """Say what of another program's picture is not restored: the run is not that picture's."""
    if request.tool is None:
        return
    for words in not_restored(request, {}):
        say("[yellow]not restored:[/]", f"{words} ({request.tool})")


def check_described(request: RequestFile, capture: Capture) -> None:
    """Raise IncompatibleCaptures if the run was not the one that a picture describes."""
    if request.described is not None:
        found = list(request_differences(request.described, capture.header.request))
        if found:
            raise IncompatibleCaptures(found)


def save_reports(
    comparison: Comparison, to_html: Path | None, to_json: Path | None, to_junit: Path | None
) -> None:
    """Write the reports that are asked for, each whole or not at all."""
    if to_html is not None:
        report(comparison, to_html)
    if to_json is not None:
        text = json.dumps(json_report(comparison), ensure_ascii=False, indent=2, allow_nan=False)
        write_whole(to_json, f"{text}\n".encode())
    if to_junit is not None:
        write_whole(to_junit, junit(comparison))


def show_comparison(comparison: Comparison) -> None:
    """Print a table of phases and the verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    rows = phases(comparison)
    has_floors = any(row.worst.ratio is not None for row in rows)
    for title, justify in _COLUMNS.items():
        if title != _FLOOR or has_floors:
            table.add_column(title, justify=justify, overflow="fold")
    for row in rows:
        cells = (row.phase, str(row.stages), str(row.bad), *_cells(row.worst, has_floors))
        table.add_row(*cells, style="red" if row.bad else "")
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file has no width
        console = Console(highlight=False, markup=False, width=_WIDE)
    console.print(table)
    if comparison.swaps:
        console.print()
        console.print(_swaps(comparison))
    for note in notes(comparison):
        console.print(f"note: {note}", soft_wrap=True)
    typer.echo(comparison.verdict.sentence)


def _swaps(comparison: Comparison) -> Table:
    """A table of swaps: what each component's swap leaves of the difference, and its share."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(f"b with {comparison.a.name}'s")
    for title in ("relative L2 left", "so it costs"):
        table.add_column(title, justify="right")
    whole = comparison.unswapped
    table.add_row("nothing", "" if whole is None else f"{whole:.2e}", "")
    for swap in comparison.swaps:
        cost = f"{100 * max(0.0, 1 - swap.relative_l2 / whole):.0f} %" if whole else ""
        table.add_row(swap.component, f"{swap.relative_l2:.2e}", cost)
    return table


_WIDE = 160
_FLOOR = "× floor"
_COLUMNS: Mapping[str, Literal["left", "right"]] = {
    "phase": "left",
    "stages": "right",
    "bad": "right",
    "relative L2": "right",
    "limit": "right",
    _FLOOR: "right",
    "worst stage": "left",
}


def _cells(one: Difference, has_floors: bool) -> tuple[str, ...]:
    ratio = "" if one.ratio is None else f"{one.ratio:.1f}"
    found = f"{one.measures.relative_l2:.2e}", f"{one.limit:.1e}"
    return (*found, *((ratio,) if has_floors else ()), one.stage.partition("/")[2])


def show_capture(capture: Capture, path: Path, *, as_json: bool) -> None:
    """Print what a capture holds and where it was written."""
    sketched = sum(isinstance(stage, Sketch) for stage in capture.stages.values())
    size = path.stat().st_size
    if as_json:
        header = asdict(capture.header)
        header.pop("embedding")
        counts: dict[str, Any] = {
            "bytes": size,
            "stages": len(capture.stages),
            "sketched": sketched,
        }
        counts["floors"] = list(capture.floors)
        print_json({"file": str(path.resolve()), **counts, **header})
        return
    whole = f"{len(capture.stages)} stages, {sketched} of them as sketches"
    floors = f"floors of {', '.join(capture.floors)}" if capture.floors else "no floors"
    typer.echo(f"{path}: {whole}, {floors}, {decimal(size)}")
