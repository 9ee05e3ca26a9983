"""A job of the engine: a future whose progress can be followed, from any thread or from asyncio."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from ipa.errors import Cancelled, DeadlineExceeded
from ipa.request.result import Progress

from .needs import Needs

State = Literal["queued", "running", "completed", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"completed", "failed", "cancelled"})
R = TypeVar("R")
OnEvent: TypeAlias = "Callable[[Job[Any], Progress], None]"
"""A function that is told of each event, in the engine's thread."""

_LOG = logging.getLogger("ipa.engine")


class Job(Generic[R]):
    """A job of an `Engine`: queued, running, then completed, failed or cancelled, once.

    Its result: `result()`, or `await job`. Its events: `for event in job.events()`, or `async for
    event in job`; each reader sees all of them, but only the latest preview. Safe from any thread.
    """

    def __init__(
        self,
        job_id: str,
        needs: Needs | None,
        work: Callable[[Any, Job[R]], R],
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        on_event: OnEvent | None = None,
        lazy: bool = False,
    ) -> None:
        self.id, self.needs, self.priority, self.lazy = job_id, needs, priority, lazy
        self.submitted = time.monotonic()
        self._deadline = None if deadline_s is None else self.submitted + deadline_s
        self._work, self._on_event = work, on_event
        self._future: Future[R] = Future()
        self._changed = threading.Condition()
        self._state: State = "queued"
        self._events: list[Progress] = []
        self._is_asked_to_stop = False
        self._listeners: list[Callable[[], None]] = []
        self._drop: Callable[[Job[R]], bool] = lambda job: False
        self._leave: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self._state}>"

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    @property
    def key(self) -> tuple[str, str] | None:
        """What tells its model from another's; None where it needs none."""
        return None if self.needs is None else self.needs.key

    def done(self) -> bool:
        """Whether it has ended."""
        return self._state in ENDED

    def result(self, timeout: float | None = None) -> R:
        """Wait for the result.

        Args:
            timeout: Seconds to wait at most; None waits for the end.

        Raises:
            TimeoutError: It has not ended by then; it goes on.
            Cancelled: It was cancelled.
            DeadlineExceeded: Its deadline came first.
            IpaError: What the run raised.
        """
        return self._future.result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error that it ended with, None for a result; waits as `result` does."""
        return self._future.exception(timeout)

    def cancel(self) -> State:
        """Ask it to stop: at once where it waits, else before the next evaluation.

        Returns:
            The state that it had.
        """
        with self._changed:
            state, self._is_asked_to_stop = self._state, True
        if state == "queued" and self._drop(self):
            self._fail(Cancelled("the job was cancelled", found="it had not begun"), "cancelled")
        return state

    def add_done_callback(self, function: Callable[[Job[R]], None]) -> None:
        """Have a function called with this job when it has ended, at once if it has."""
        self._future.add_done_callback(lambda _: function(self))

    def events(self) -> Iterator[Progress]:
        """All its events from the first on, until it has ended. Errors are told by `result`."""
        number = 0
        while True:
            with self._changed:
                while len(self._events) == number and not self.done():
                    self._changed.wait()
                fresh = self._events[number:]
            yield from fresh
            number += len(fresh)
            if not fresh:
                return

    def __await__(self) -> Generator[Any, None, R]:
        return self._waited().__await__()

    async def _waited(self) -> R:
        try:
            return await asyncio.shield(asyncio.wrap_future(self._future))
        except asyncio.CancelledError:
            self.cancel()  # whoever waited has gone
            raise

    async def __aiter__(self) -> AsyncIterator[Progress]:
        loop, fresh, number = asyncio.get_running_loop(), asyncio.Event(), 0

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(fresh.set)
            except RuntimeError:  # its loop is closed: nobody listens any more
                _LOG.debug("job %s: a listener's loop is closed", self.id)

        with self._changed:
            self._listeners.append(wake)
        try:
            while True:
                fresh.clear()
                with self._changed:
                    news, ended = self._events[number:], self.done()
                number += len(news)
                for event in news:
                    yield event
                if not news:
                    if ended:
                        return
                    await fresh.wait()
        finally:
            with self._changed:
                self._listeners.remove(wake)

    # What follows is the engine's.

    def is_overdue(self) -> bool:
        """Whether its deadline has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def should_stop(self) -> bool:
        """Whether its run should stop: the signal that `Pipeline.stream` asks between steps."""
        return self._is_asked_to_stop or self.is_overdue()

    def expire(self) -> None:
        """End it if it still waits, since its deadline has passed."""
        if self._drop(self):
            self._fail(self._too_late(), "failed")

    def begin(self, drop: Callable[[Job[R]], bool]) -> None:
        """Say how to take it out of the queue; the queue's."""
        self._drop = drop

    def tell(self, event: Progress) -> None:
        """Record an event, and tell who listens."""
        with self._changed:
            if event.preview is not None:
                self._events = [replace(old, preview=None) for old in self._events]
            self._events.append(replace(event, result=None))
            listeners = list(self._listeners)
            self._changed.notify_all()
        for wake in listeners:
            wake()
        if self._on_event is not None:
            try:
                self._on_event(self, event)
            except Exception:  # noqa: BLE001 - a caller's fault is not the job's
                _LOG.exception("on_event of job %s raised; the job goes on", self.id)

    def run(self, pipeline: Callable[[Job[R]], Any], ended: Callable[[], None]) -> None:
        """Run it in this thread to one of its ends; raises nothing.

        Args:
            pipeline: Gives what its work is done with.
            ended: Called when it has ended and before anybody is told.
        """
        with self._changed:
            if self._state != "queued":
                return
            self._state, self._leave = "running", ended
        try:
            if self.should_stop():
                raise Cancelled("the job was cancelled", found="before it began")
            result = self._work(pipeline(self), self)
        except Cancelled as error:
            if self.is_overdue() and not self._is_asked_to_stop:
                self._fail(self._too_late(), "failed")
            else:
                self._fail(error, "cancelled")
        except BaseException as error:  # noqa: BLE001 - one job's fault must not end the engine
            self._fail(error, "failed")
        else:
            self._end("completed", lambda: self._future.set_result(result))

    def _too_late(self) -> DeadlineExceeded:
        seconds = 0.0 if self._deadline is None else self._deadline - self.submitted
        return DeadlineExceeded(
            f"the job {self.id} was not done by its deadline",
            found=f"{seconds:g} s, state {self._state}",
            remedy="allow more time, or ask for less",
        )

    def _fail(self, error: BaseException, state: State) -> None:
        self._end(state, lambda: self._future.set_exception(error))

    def _end(self, state: State, answer: Callable[[], None]) -> None:
        with self._changed:
            if self.done():
                return
            self._state = state
        self._work = _done  # with it go the pictures that it was asked with
        self._leave()
        try:
            answer()
        except InvalidStateError:  # pragma: no cover - the state above is the only way in
            raise RuntimeError(f"job {self.id} ended twice") from None
        with self._changed:
            listeners = list(self._listeners)
            self._changed.notify_all()
        for wake in listeners:
            wake()


def _done(*_: Any) -> Any:
    """What a job that has ended has to do."""
    raise RuntimeError("a job was run twice")
