"""The terminal: progress, tables, colours, JSON, and errors as a person reads them."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.text import Text

from ipa.app.help.option_words import in_options
from ipa.errors import (
    BackendError,
    Cancelled,
    CaptureError,
    CheckpointError,
    IncompatibleCaptures,
    IpaError,
    NumericalError,
    OutOfMemory,
    RequestError,
)
from ipa.request.result import Progress
from ipa.request.watched import watching
from ipa.watching import CancelSignal

from .interrupts import heard, leave
from .session import session

EXIT_CODES: dict[type[IpaError], int] = {
    RequestError: 2,
    CaptureError: 2,
    IncompatibleCaptures: 2,
    CheckpointError: 3,
    BackendError: 4,
    NumericalError: 5,
    OutOfMemory: 6,
    Cancelled: 130,
}


@contextmanager
def explained(*, of_file: bool = False) -> Iterator[None]:
    """A context: our own errors become one line and an exit code; others keep their trace.

    Args:
        of_file: Whether the request came from a file: its arguments keep their names in messages.
    """
    try:
        yield
    except IpaError as error:
        code = next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), 1)
        events = session().events
        if events is None:
            say("[bold red]error:[/]", in_options(error, of_file=of_file))
        else:
            message = in_options(error, of_file=of_file)
            events.tell("error", {**error.to_json(), "message": message, "exit_code": code})
        raise typer.Exit(code) from error


def say(head: str, text: str) -> None:
    """Print a line on standard error, whole: paths are not broken at the edge of the terminal.

    Where programs read events it is one of them, its head without colours.
    """
    events = session().events
    if events is not None:
        kind = Text.from_markup(head).plain.strip(":; ")
        events.tell("note", {"kind": kind, "text": text})
        return
    Console(stderr=True, highlight=False).print(f"{head} {escape(text)}", soft_wrap=True)


def warn(warnings: Iterable[str]) -> None:
    """Show warnings on standard error, each once in a command."""
    texts = session().told
    for warning in warnings:
        if warning not in texts:
            texts.add(warning)
            say("[yellow]warning:[/]", warning)


def print_json(value: dict[str, Any]) -> None:
    """Print JSON on standard output, for machines."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


class ProgressBar:
    """A progress bar over several runs of the same number of steps each."""

    def __init__(self, bars: Bars, total: int) -> None:
        self._bars = bars
        self._total = total
        self._task = bars.add_task("", total=total)
        self._finished = 0

    def describe(self, text: str) -> None:
        """Set the bar's label."""
        self._bars.update(self._task, description=text)

    def __call__(self, event: Progress) -> None:
        """Advance the bar by an event of a run, and say what is to be known before it starts."""
        warn(event.notes)
        events = session().events
        if events is not None:
            events.progress(event)
        if event.stage == "denoise":
            # A sampler may take more evaluations than it was asked for steps.
            total = max(self._total, self._finished + event.total)
            self._bars.update(self._task, completed=self._finished + event.step, total=total)
        elif event.stage == "done":
            self._finished = int(self._bars.tasks[0].completed)


def _is_quiet(console: Console) -> bool:
    """Whether no bar is drawn: nobody looks, or programs read."""
    return not console.is_terminal or session().events is not None


@contextmanager
def telling(cancel: CancelSignal) -> Iterator[None]:
    """A context whose loading and downloads Ctrl-C stops, and programs are told of."""
    events = session().events
    with watching(None if events is None else events.progress, cancel):
        yield


@contextmanager
def progress_bar(total: int) -> Iterator[ProgressBar]:
    """A progress bar on standard error for a block; none where that is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=_is_quiet(console)) as bars:
        yield ProgressBar(bars, total)


@contextmanager
def bytes_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes with speed and time left; what it yields takes bytes done and bytes in all."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=_is_quiet(console)) as bars:
        task = bars.add_task(description, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def cancel_on_interrupt() -> Iterator[threading.Event]:
    """A context: Ctrl-C sets an event that ends a run between steps; a second ends at once."""
    cancel = threading.Event()

    def stop() -> None:
        cancel.set()
        say("[yellow]stopping after this step;[/]", "Ctrl-C again to quit now")

    before = signal.signal(signal.SIGINT, lambda *_: cancel.set())
    try:
        with heard(stop, leave):
            yield cancel
    finally:
        signal.signal(signal.SIGINT, before)
