"""A job that a supervisor has promised: its document, its tries, and its one answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeAlias

OnNotice: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""A function that is told of progress and previews: the method's name and its params."""


class Task:
    """A job in a supervisor's hands. Changed under the supervisor's lock alone."""

    def __init__(
        self, job_id: str, params: Mapping[str, Any], on_notice: OnNotice | None = None
    ) -> None:
        self.id, self.params, self.on_notice = job_id, dict(params), on_notice
        self.future: Future[dict[str, Any]] = Future()
        self.deaths: list[dict[str, Any]] = []
        self.is_running = False
        self.is_cancelled = False
        self.last_news = time.monotonic()
        self.slowest_s = 0.0

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the answer of `generate`: state, images, info.

        Raises:
            TimeoutError: It has not come by then.
            EngineError, RequestError, …: What the worker or the supervisor answered.
        """
        return self.future.result(timeout)

    def done(self) -> bool:
        """Whether it is answered."""
        return self.future.done()

    def news(self) -> None:
        """Note that its worker said something of it."""
        now = time.monotonic()
        if self.is_running:
            self.slowest_s = max(self.slowest_s, now - self.last_news)
        self.is_running, self.last_news = True, now

    def rest(self) -> None:
        """Note that it waits again, for a new worker."""
        self.is_running, self.last_news = False, time.monotonic()
