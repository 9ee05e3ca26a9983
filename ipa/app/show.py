"""Progress on the terminal. It goes to standard error: standard output belongs to results."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from ipa.app.interrupts import heard, leave
from ipa.app.terminal import say
from ipa.contract.result import Progress


class ProgressBar:
    """One bar over several runs of the same number of steps each."""

    def __init__(self, bars: Bars, total: int) -> None:
        self._bars = bars
        self._total = total
        self._task = bars.add_task("", total=total)
        self._finished = 0

    def describe(self, text: str) -> None:
        """What is being made."""
        self._bars.update(self._task, description=text)

    def __call__(self, event: Progress) -> None:
        """Take an event of a run."""
        if event.stage == "denoise":
            # A sampler may take more evaluations than it was asked for steps.
            total = max(self._total, self._finished + event.total)
            self._bars.update(self._task, completed=self._finished + event.step, total=total)
        elif event.stage == "done":
            self._finished = int(self._bars.tasks[0].completed)


@contextmanager
def progress_bar(total: int) -> Iterator[ProgressBar]:
    """A bar on standard error while the block runs; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
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
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(description, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def cancel_on_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that a run ends between two steps; a second Ctrl-C ends at once."""
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
