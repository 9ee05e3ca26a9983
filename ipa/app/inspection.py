"""`ipa-mlx inspect`: what the converters say of a file, as a table or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console


def show_inspection(path: Path, *, as_json: bool) -> None:
    """Print what `path` is. Raises CheckpointError if it is no checkpoint."""
    import ipa_convert

    inspection = ipa_convert.inspect(path)
    if as_json:
        typer.echo(json.dumps(asdict(inspection), ensure_ascii=False, indent=2, default=str))
        return
    console = Console(highlight=False)
    console.print(inspection)
