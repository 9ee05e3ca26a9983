"""Whose turn it is: a pipeline is in one thread's hands at a time, and others wait, or do not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

from ipa.checks import is_finite
from ipa.errors import Cancelled, PipelineBusy, RequestError, shown
from ipa.request.request import RequestArguments, check_names

Wait: TypeAlias = "float | None"
"""Seconds to wait for a turn: 0 not at all, None as long as it takes."""


class CallArguments(RequestArguments, total=False):
    """The arguments of a call: those of its request, and how long to wait for its turn."""

    wait: Wait


_GLANCE = 0.02
"""Seconds after which who waits asks again whether it was cancelled."""

_LONGEST = 1e6


def check_wait(wait: object) -> Wait:
    """Seconds to wait. Raises RequestError for what is neither a number from 0 on nor None."""
    if wait is not None and (not is_finite(wait) or not 0 <= float(wait) <= _LONGEST):
        raise RequestError(
            "wait must be seconds from 0 on, or None",
            found=shown(wait),
            remedy="0 does not wait, None waits as long as it takes",
        )
    return wait if wait is None else float(wait)


def apart(arguments: CallArguments, default: Wait) -> tuple[RequestArguments, Wait]:
    """A request's arguments, and the seconds that its call waits. Raises RequestError."""
    given: dict[str, Any] = dict(arguments)
    wait = check_wait(given.pop("wait", default))
    check_names(given)
    return cast("RequestArguments", given), wait


class Turns:
    """The turns of one pipeline: to compute with it, and to change what is loaded.

    A run computes; what is loaded, unloaded or set does both. A run's plan is made of what is
    loaded, and so waits for a change that is under way, but not for another run.
    """

    def __init__(self) -> None:
        self.wait: Wait = None  # that of who says nothing else
        self._computing, self._changing = threading.Lock(), threading.Lock()
        self._owner: int | None = None

    def __deepcopy__(self, memo: object) -> Turns:
        """Those of another pipeline, in which nobody is busy."""
        other = Turns()
        other.wait = self.wait
        return other

    @property
    def busy(self) -> bool:
        """Whether a run or a change is under way."""
        return self._computing.locked() or self._changing.locked()

    @property
    def is_mine(self) -> bool:
        """Whether this thread is in the middle of a run."""
        return self._owner == threading.get_ident()

    @contextmanager
    def computing(
        self, wait: Wait, should_stop: Callable[[], bool] | None = None
    ) -> Iterator[None]:
        """Have the pipeline for one run.

        Args:
            wait: Seconds to wait.
            should_stop: Asked while waiting.

        Raises:
            Cancelled: It should stop.
            PipelineBusy: Another thread has it, and goes on to.
            RequestError: This thread has it.
        """
        if self.is_mine:
            raise RequestError(
                "this pipeline is in the middle of a stream in this very thread",
                remedy="take the stream to its end, or close() it, before the next call",
            )
        _take(self._computing, wait, should_stop)
        self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._owner = None
            self._computing.release()

    @contextmanager
    def changing(self, wait: Wait) -> Iterator[None]:
        """Have what is loaded: no run is planned meanwhile. Raises PipelineBusy."""
        _take(self._changing, wait)
        try:
            yield
        finally:
            self._changing.release()


def _take(lock: threading.Lock, wait: Wait, should_stop: Callable[[], bool] | None = None) -> None:
    ends = math.inf if wait is None else time.monotonic() + wait
    glance = math.inf if should_stop is None else _GLANCE
    while not lock.acquire(timeout=_within(min(ends - time.monotonic(), glance))):
        if should_stop is not None and should_stop():
            raise Cancelled("the run was cancelled", found="while it waited for its turn")
        if time.monotonic() >= ends:
            raise PipelineBusy(
                "this pipeline is busy: another thread makes a picture or loads something",
                found=f"waited {wait:g} s",
                remedy="try again later, wait longer (wait=), or end what it does (cancel=, or "
                "close() of its stream)",
            )


def _within(seconds: float) -> float:
    """Seconds as a lock takes them: -1 waits as long as it takes."""
    return -1.0 if math.isinf(seconds) else max(0.0, seconds)
