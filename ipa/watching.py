"""Watching what takes long before a run: downloads and loading, told as they go, and stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from .errors import Cancelled

Stage = Literal["download", "load"]
Told = Callable[[Stage, int, int], None]
"""A function that is told of a stage's bytes so far, and of all of them (0: not known)."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told, and who is asked whether to stop."""

    told: Told
    should_stop: Callable[[], bool]

    def tell(self, stage: Stage, done: int, total: int) -> None:
        """Tell of progress. Raises Cancelled if it should stop."""
        if self.should_stop():
            raise Cancelled("loading was cancelled", found=f"{stage}, {done} of {total} bytes")
        self.told(stage, done, total)


_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


def watch() -> Watch | None:
    """Who watches in this thread; None if nobody does."""
    return _WATCH.get()


@contextmanager
def watched_by(watching: Watch) -> Iterator[None]:
    """A context in which this thread's downloads and loading are watched."""
    token = _WATCH.set(watching)
    try:
        yield
    finally:
        _WATCH.reset(token)


def download_bar(watching: Watch) -> type[Any]:
    """A class in the manner of tqdm, for huggingface_hub: its bars of bytes are told, not drawn.

    Downloads run in threads of their own, so the watch is taken along.
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
                watching.tell("download", int(self.n), int(self.total or 0))

    return Bar
