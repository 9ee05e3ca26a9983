"""One file against the readers, and what must hold whatever is in it.

Only a CheckpointError may escape, with a message for a person. It takes less than a second of the
processor. Memory stays within twice the file and a constant. Nothing is written, run or imported.
"""

from __future__ import annotations

import re
import signal
import sys
import time
import traceback
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fuzz.coverage import Coverage
from ipa.errors import CheckpointError
from ipa_convert import inspect
from ipa_convert.containers import header
from ipa_convert.containers.checkpoint import open_file
from ipa_convert.containers.torch_save import pickle_machine

ALLOWANCE = 1 << 20
"""What the readers may spend beside a file's size while they are tested; in use it is 32 MiB."""
MEMORY = ALLOWANCE + (1 << 20)
"""Bytes beside twice the file: that allowance, and one MiB for Python's own (measured: 0.1)."""
SECONDS = 1.0
_MESSAGE = 500  # characters beside the path
_DENIED = re.compile(
    r"import|exec|compile|marshal\..*|os\.(?!scandir|listdir).*|subprocess\..*|socket\..*|shutil\..*"
    r"|ctypes\..*|pickle\..*|pty\..*|tempfile\..*|urllib\..*|webbrowser\..*|code\..*"
)
_SLOW = 3  # times that instruments may slow the readers down


class TooSlowError(BaseException):
    """Raised by the watchdog; no handler of an Exception stops it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a file.

    Attributes:
        accepted: Whether it was read.
        failure: What does not hold, in short, so that alike ones are alike; empty if all does.
        detail: The trace, or the figures.
        novelty: Whether it reached what no file has reached before.
        seconds: Of the processor.
        peak: Bytes of memory.
    """

    accepted: bool
    failure: str
    detail: str
    novelty: bool
    seconds: float
    peak: int


class Examiner:
    """Judges files one after another; changes this process for good, so give it one of its own."""

    def __init__(self) -> None:
        self._events: list[str] = []
        self._watched = False
        self._coverage = Coverage()
        self._messages: set[str] = set()
        for module in (header, pickle_machine):
            module._ALLOWANCE = ALLOWANCE  # so that small files meet it
        signal.signal(signal.SIGPROF, _too_slow)
        sys.addaudithook(self._hear)

    @property
    def novelties(self) -> int:
        """Lines and kinds of messages seen so far."""
        return self._coverage.seen + len(self._messages)

    def examine(self, path: Path) -> Verdict:
        """A file, for its memory and then for its lines; what seems slow is timed without both."""
        modules, size = len(sys.modules), path.stat().st_size
        self._events, self._watched = [], True
        tracemalloc.start()
        error, seconds = _timed(path, SECONDS * _SLOW)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self._watched = False
        with self._coverage.watching() as lines:
            _timed(path, SECONDS / 2)  # what takes longer has been in its loops by then
        if seconds > SECONDS / 2:
            error, seconds = min((_timed(path, SECONDS) for _ in range(2)), key=lambda t: t[1])
        problem, detail = _judged(error, path)
        if peak > 2 * size + MEMORY:
            problem, detail = problem or "memory", f"{peak} bytes for a file of {size}"
        if self._events or len(sys.modules) != modules:
            problem, detail = f"side effect: {self._events[:1]}", str(self._events[:9])
        message = re.sub(r"'[^']*'|[^a-z ]+", "", detail)[:24]  # its words, not its names
        novelty = bool(lines) or (not problem and message not in self._messages)
        self._messages.add(message)
        return Verdict(error is None, problem, detail, novelty, seconds, peak)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._watched:
            return
        if event == "open":
            mode, flags = arguments[1:3]
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (
                isinstance(flags, int) and flags & 0b11
            ):
                self._events.append(f"open {arguments!r:.200}")
        elif _DENIED.fullmatch(event):
            self._events.append(f"{event} {arguments!r:.200}")


def _timed(path: Path, limit: float) -> tuple[BaseException | None, float]:
    """What reading it raised, and the processor's seconds."""
    began, error = time.process_time(), None
    try:
        with _watchdog(limit):
            _read(path)
    except (Exception, TooSlowError) as caught:  # noqa: BLE001 - this is what is looked for
        error = caught
    return error, time.process_time() - began


def _read(path: Path) -> None:
    """Everything that a file goes through."""
    total = 0
    for tensor in open_file(path).values():
        array = tensor.array()
        assert array.shape == tensor.shape
        np.add.reduce(array.reshape(-1).view(np.uint8), dtype=np.uint64)  # every byte is there
        total += array.nbytes
        tensor.release()
    assert total <= 2 * path.stat().st_size
    inspect(path)


def _judged(error: BaseException | None, path: Path) -> tuple[str, str]:
    """What does not hold, if anything, and the message or the trace."""
    if error is None:
        return "", ""
    if isinstance(error, CheckpointError):
        return _message(error, path), error.found
    if isinstance(error, TooSlowError):
        return "slow", "".join(traceback.format_exception(error))
    last = [f for f in traceback.extract_tb(error.__traceback__) if "convert" in f.filename]
    where = f"{Path(last[-1].filename).name}:{last[-1].lineno}" if last else "elsewhere"
    return f"{type(error).__name__} at {where}", "".join(traceback.format_exception(error))


def _message(error: CheckpointError, path: Path) -> str:
    """What is wrong with a message for a person."""
    if str(path) not in error.what or not error.found or not error.remedy:
        return "a message without path, finding or remedy"
    if len(str(error)) > _MESSAGE + len(str(path)):
        return "a message that is a dump"
    try:
        str(error).encode()
    except UnicodeEncodeError:
        return "a message that cannot be printed"
    return ""


def _too_slow(number: int, frame: object) -> None:
    raise TooSlowError


@contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
