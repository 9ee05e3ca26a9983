"""How often workers died of late: how long to wait for the next, and when to give up."""

from __future__ import annotations

import time

_PAUSES_S = (0.0, 1.0, 4.0)


class Crashes:
    """A count of workers that ended unasked.

    Attributes:
        most: So many within `within_s` seconds, without a job done between them, are too many.
        within_s: Seconds.
    """

    most, within_s = 5, 180.0

    def __init__(self) -> None:
        self._times: list[float] = []

    def count(self) -> None:
        """Count one."""
        now = time.monotonic()
        self._times = [*(t for t in self._times if now - t < self.within_s), now]

    def forget(self) -> None:
        """A job was done: the worker is well."""
        self._times.clear()

    @property
    def has_given_up(self) -> bool:
        """Whether there were too many."""
        return len(self._times) >= self.most

    def pause_s(self) -> float:
        """Seconds to wait before the next worker is started."""
        return _PAUSES_S[min(len(self._times), len(_PAUSES_S)) - 1] if self._times else 0.0
