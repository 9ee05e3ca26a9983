"""`ipa-mlx inspect`: what the converters say of a file, for a person or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from ipa.errors import CheckpointError

if TYPE_CHECKING:
    from ipa_convert import Inspection, Part

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".heic", ".tif", ".tiff"})


def show_inspection(path: Path, *, values: bool, as_json: bool) -> None:
    """Print what `path` is. Raises CheckpointError if it is no checkpoint."""
    import ipa_convert

    if path.suffix.lower() in _PICTURES and path.is_file():
        raise CheckpointError(
            f"{path} is a picture, not weights",
            remedy=f"ipa-mlx show {path} says how it was made, if it is one of ours",
        )
    inspection = ipa_convert.inspect(path, values=values)
    if as_json:
        typer.echo(json.dumps(asdict(inspection), ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)
    for name, value in _facts(inspection):
        console.print(f"  {name:9s}{escape(value)}", soft_wrap=True)
    if inspection.parts:
        console.print(_table(inspection.parts))


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """The facts worth printing; empty values are left out."""
    kind = f"{found.family}, {found.variant}" if found.variant else found.family
    yield "is", kind + (" (converted for MLX)" if found.converted else "")
    if found.base:
        yield "base", found.base
    if found.encoder:
        yield "needs", found.encoder
    yield "holds", f"{found.tensors:,} tensors, {found.parameters:,} weights"
    yield "size", f"{decimal(found.bytes)} ({_dtypes(found.dtypes)})"
    for remark in found.remarks:
        yield "note", remark


def _table(parts: tuple[Part, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("part", "is"):
        table.add_column(title, overflow="fold")
    table.add_column("tensors", justify="right")
    table.add_column("size")
    for part in parts:
        words = [part.family, part.variant, part.base, *part.remarks]
        if part.encoder:
            words.append(f"needs {part.encoder}")
        table.add_row(
            escape(part.name),
            escape("; ".join(filter(None, words))),
            f"{part.tensors:,}",
            f"{decimal(part.bytes)} {_dtypes(part.dtypes)}",
        )
    return table


def _dtypes(counts: Mapping[str, int]) -> str:
    return ", ".join(sorted(counts, key=lambda name: -counts[name]))
