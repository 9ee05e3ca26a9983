"""A job that a supervisor has promised: its document, its tries, and its one answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeAlias

OnNotice: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""A function that is told of progress and previews: the method's name and its params."""


_GIB = 1 << 30


class Task:
    """A job in a supervisor's hands. Changed under the supervisor's lock alone.

    Attributes:
        failures: How each of its tries ended that gave no answer; each has a "reason" in words.
    """

    def __init__(
        self, job_id: str, params: Mapping[str, Any], on_notice: OnNotice | None = None
    ) -> None:
        self.id, self.params, self.on_notice = job_id, dict(params), on_notice
        self.future: Future[dict[str, Any]] = Future()
        self.failures: list[dict[str, Any]] = []
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

    @property
    def sent(self) -> dict[str, Any]:
        """The params of its next try: a second one is made in less memory."""
        return self.params | ({"frugal": True} if self.failures else {})

    def failed(self, how: Mapping[str, Any]) -> bool:
        """Note that a try failed: its worker ended, or memory ran out; True if it was the first."""
        self.failures.append(dict(how))
        return len(self.failures) == 1

    def told(self, result: Any) -> dict[str, Any]:
        """A result that says what the job went through."""
        answer = dict(result) if isinstance(result, Mapping) else {}
        if self.failures:
            info = dict(answer.get("info") or {})
            words = f"made anew after {self.failures[0]['reason']}{_less(info)}"
            answer["info"] = info | {"warnings": [*info.get("warnings", ()), words]}
        return answer

    def news(self) -> None:
        """Note that its worker said something of it."""
        now = time.monotonic()
        if self.is_running:
            self.slowest_s = max(self.slowest_s, now - self.last_news)
        self.is_running, self.last_news = True, now

    def rest(self) -> None:
        """Note that it waits again, for a new worker."""
        self.is_running, self.last_news = False, time.monotonic()


def _less(info: Mapping[str, Any]) -> str:
    """In how much less memory a second try was made, in words, as far as its result says it."""
    memory = info.get("memory") or {}
    if not memory.get("budget_bytes"):
        return ""
    taken = memory.get("taken") or ()
    ways = {"strips": "the VAE in strips", "fewer": "fewer pictures at once"}
    named = " and ".join(ways.get(name, str(name)) for name in taken)
    same = f", {named}: the same picture but for rounding" if named else ", the same picture"
    return f", within {memory['budget_bytes'] / _GIB:.3g} GiB{same}"
