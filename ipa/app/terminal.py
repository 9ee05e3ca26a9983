"""What commands share at the terminal: errors in one line with an exit code, notes, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from ipa.app.option_words import in_options
from ipa.app.session import session
from ipa.contract.errors import (
    BackendError,
    Cancelled,
    CaptureError,
    CheckpointError,
    IncompatibleCaptures,
    IpaError,
    NumericalError,
    RequestError,
)

EXIT_CODES: dict[type[IpaError], int] = {
    RequestError: 2,
    CaptureError: 2,
    IncompatibleCaptures: 2,
    CheckpointError: 3,
    BackendError: 4,
    NumericalError: 5,
    Cancelled: 130,
}


@contextmanager
def explained(*, of_file: bool = False) -> Iterator[None]:
    """Turn our own errors into one line and an exit code; others are bugs and keep their trace.

    Args:
        of_file: Whether the request came from a file: its arguments keep their names in messages.
    """
    try:
        yield
    except IpaError as error:
        say("[bold red]error:[/]", in_options(error, of_file=of_file))
        raise typer.Exit(EXIT_CODES.get(type(error), 1)) from error


def say(head: str, text: str) -> None:
    """A line on standard error, whole: paths are not broken at the edge of the terminal."""
    Console(stderr=True, highlight=False).print(f"{head} {escape(text)}", soft_wrap=True)


def warn(warnings: Iterable[str]) -> None:
    """Show warnings on standard error, each once in a command."""
    told = session().told
    for warning in warnings:
        if warning not in told:
            told.add(warning)
            say("[yellow]warning:[/]", warning)


def print_json(value: dict[str, Any]) -> None:
    """JSON on standard output, for machines."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")
