"""`ipa-mlx parity`: options become captures and comparisons, those become rows and files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from ipa.contract.embeds_file import write_whole
from ipa.contract.errors import IncompatibleCaptures, RequestError
from ipa.parity.capture import Capture
from ipa.parity.comparison import Comparison
from ipa.parity.compatibility import request_differences
from ipa.parity.difference import Difference
from ipa.parity.json_report import json_report
from ipa.parity.junit import junit
from ipa.parity.limits import Limits, lower
from ipa.parity.stages import chosen
from ipa.parity.text_report import notes, phases, verdict

from .request_file import RequestFile


def parse_steps(text: str | None) -> frozenset[int] | None:
    """Numbers with commas between them."""
    if text is None:
        return None
    try:
        return frozenset(int(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(
            "--steps is a list of numbers", found=repr(text)[:80], remedy="such as 0,10,19"
        ) from error


def parse_limits(texts: Sequence[str], a: Capture, b: Capture) -> Limits:
    """[PATTERN=]NUMBER for each, later ones first; without any, those of the lower precision."""
    own: dict[str, float] = {}
    known = [*a.stages]
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
        own |= dict.fromkeys(chosen([pattern or "*"], known), limit)
    return Limits(lower(a.header.dtype, b.header.dtype), own=own)


def check_described(request: RequestFile, capture: Capture) -> None:
    """Raise IncompatibleCaptures if the run was not the one that a picture describes."""
    if request.described is not None:
        found = list(request_differences(request.described, capture.header.request))
        if found:
            raise IncompatibleCaptures(found)


def merged(own: Iterable[str] | None, told: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """What the command line names, or else the request."""
    return list(own or told.get(name, ()))


def save_reports(comparison: Comparison, to_json: Path | None, to_junit: Path | None) -> None:
    """Write the files that are asked for, each whole or not at all."""
    if to_json is not None:
        text = json.dumps(json_report(comparison), ensure_ascii=False, indent=2, allow_nan=False)
        write_whole(to_json, f"{text}\n".encode())
    if to_junit is not None:
        write_whole(to_junit, junit(comparison))


def show_comparison(comparison: Comparison) -> None:
    """Print a table of phases and the verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title, justify in _COLUMNS.items():
        table.add_column(title, justify=justify, overflow="fold")
    for phase in phases(comparison):
        style = "red" if phase.bad else ""
        cells = (phase.phase, str(phase.stages), str(phase.bad), *_cells(phase.worst))
        table.add_row(*cells, style=style)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for note in notes(comparison):
        console.print(f"note: {note}", soft_wrap=True)
    typer.echo(verdict(comparison))


_COLUMNS: Mapping[str, str] = {
    "phase": "left",
    "stages": "right",
    "bad": "right",
    "relative L2": "right",
    "limit": "right",
    "× floor": "right",
    "worst stage": "left",
}


def _cells(one: Difference) -> tuple[str, ...]:
    ratio = "" if one.ratio is None else f"{one.ratio:.1f}"
    path = one.stage.partition("/")[2]
    return f"{one.measures.relative_l2:.2e}", f"{one.limit:.1e}", ratio, path


def told(capture: Capture, path: Path, nbytes: int, sketched: int) -> dict[str, object]:
    """What a capture is, JSON-able."""
    header = asdict(capture.header)
    header.pop("embedding")
    return {
        "file": str(path.resolve()),
        "bytes": nbytes,
        "stages": len(capture.stages),
        "sketched": sketched,
        **header,
    }
