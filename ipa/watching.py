"""Watching what takes long outside of a run: downloads, loading and encoding, told and stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol, TypeAlias

from .errors import Cancelled, RequestError

Stage = Literal["download", "load", "encode"]
Unit = Literal["steps", "bytes", "parts", "pictures"]
"""What the numbers of an event count."""


class CancelEvent(Protocol):
    """The protocol of an event that says whether to stop: a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to stop."""


CancelSignal: TypeAlias = "CancelEvent | Callable[[], bool]"
"""A signal to stop: an event, or a function that returns a bool."""


def cancel_question(cancel: CancelSignal | None) -> Callable[[], bool]:
    """A function that asks whether to cancel. Raises RequestError for what is no signal."""
    if cancel is None:
        return lambda: False
    asked: object = getattr(cancel, "is_set", cancel)
    if not callable(asked) or isinstance(cancel, type):
        raise RequestError(
            "cancel says whether to stop",
            found=type(cancel).__name__,
            remedy="pass a threading.Event, or a function that gives True or False",
            argument="cancel",
        )
    return asked


Told = Callable[[Stage, int, int, Unit], None]
"""A function that is told of a stage: so far, of how many (0: not known), of what."""


class Watch:
    """Who is told, and who is asked whether to stop. Safe from any thread; told one at a time.

    Args:
        told: See `Told`.
        should_stop: Whether to stop.
    """

    def __init__(self, told: Told, should_stop: Callable[[], bool]) -> None:
        self._told, self._should_stop = told, should_stop
        self._counts: dict[tuple[Stage, Unit], tuple[int, int]] = {}
        self._lock = threading.RLock()  # whoever is told may load something else

    def check(self, stage: Stage) -> None:
        """Raise Cancelled if it should stop."""
        if self._should_stop():
            raise Cancelled(f"{_DOING[stage]} was cancelled", found=self._progress(stage))

    def expect(self, stage: Stage, count: int, unit: Unit = "bytes") -> None:
        """Say that so much more is to come. Raises Cancelled if it should stop."""
        self._count(stage, 0, count, unit)

    def advance(self, stage: Stage, count: int, unit: Unit = "bytes") -> None:
        """Say that so much more is done. Raises Cancelled if it should stop."""
        self._count(stage, count, 0, unit)

    def reach(self, stage: Stage, done: int, total: int, unit: Unit = "bytes") -> None:
        """Say how far it is, in all. What is less than was said before is not told.

        Raises:
            Cancelled: It should stop.
        """
        self.check(stage)
        with self._lock:
            before, most = self._counts.get((stage, unit), (-1, 0))
            if done > before or total > most:
                self._set(stage, max(done, before), max(total, most), unit)

    def _count(self, stage: Stage, done: int, total: int, unit: Unit) -> None:
        self.check(stage)
        with self._lock:
            before, most = self._counts.get((stage, unit), (0, 0))
            done, total = before + done, most + total
            self._set(stage, done, max(done, total), unit)

    def _set(self, stage: Stage, done: int, total: int, unit: Unit) -> None:
        self._counts[stage, unit] = done, total
        self._told(stage, done, total, unit)

    def _progress(self, stage: Stage) -> str:
        counts = [f"{d} of {t} {u}" for (s, u), (d, t) in self._counts.items() if s == stage]
        return ", ".join(counts) or "nothing was done yet"


_DOING = {"download": "the download", "load": "loading", "encode": "encoding"}
_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


def watch() -> Watch:
    """Who watches in this thread; where nobody does, one that tells nobody and never stops."""
    return _WATCH.get() or Watch(lambda *_: None, lambda: False)


def is_watched() -> bool:
    """Whether anybody watches in this thread."""
    return _WATCH.get() is not None


@contextmanager
def watched_by(watching: Watch) -> Iterator[None]:
    """A context in which this thread's downloads, loading and encoding are watched."""
    token = _WATCH.set(watching)
    try:
        yield
    finally:
        _WATCH.reset(token)


@contextmanager
def one_part() -> Iterator[None]:
    """A context of reading a file or a network that says nothing on its way.

    Raises:
        Cancelled: Whoever watches says so, before it or after it.
    """
    watching = watch()
    watching.expect("load", 1, "parts")
    yield
    watching.advance("load", 1, "parts")


def download_bar(watching: Watch) -> type[Any]:
    """A class in the manner of tqdm, for huggingface_hub: its bars of bytes are told, not drawn.

    Downloads run in threads of their own, so the watch is taken along. There are two bars of the
    same bytes (what came over the network, what is on the disk): the further one is told.
    """
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        """A bar that draws nothing."""

        def __init__(self, *given: Any, **named: Any) -> None:
            self._is_of_bytes = named.get("unit") == "B"
            named.pop("name", None)
            super().__init__(*given, **{**named, "disable": True})
            # tqdm counts nothing where it is disabled.
            self.n, self.total = named.get("initial", 0), named.get("total")

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._is_of_bytes:
                watching.reach("download", int(self.n), int(self.total or 0))

    return Bar
