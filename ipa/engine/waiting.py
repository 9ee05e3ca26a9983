"""The queue of an engine: bounded, by priority, and kind to what is loaded."""

from __future__ import annotations

import threading
from typing import Any

from ipa.errors import EngineBusy, EngineClosed

from .job import Job

MOST_IN_A_ROW = 4
"""Jobs of the model at hand that may pass an older one of another model, one after another."""


class Waiting:
    """The jobs that wait: first by priority, then by age, a few of one model in a row.

    A model at hand is loaded, so its jobs may pass older ones of another; never more than
    `MOST_IN_A_ROW`, so that nobody waits for ever. Safe from any thread.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: list[Job[Any]] = []
        self._changed = threading.Condition()
        self._row = 0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job[Any]) -> None:
        """Add a job.

        Raises:
            EngineBusy: There is no room.
            EngineClosed: The engine is closed.
        """
        with self._changed:
            if self._is_closed:
                raise EngineClosed("the engine is closed", remedy="make a new one")
            if len(self._jobs) >= self._size:
                raise EngineBusy(
                    "the engine's queue is full",
                    found=f"{len(self._jobs)} jobs wait",
                    remedy="wait for one of them to end, or make the queue larger",
                )
            job.begin(self.remove)
            self._jobs.append(job)
            self._changed.notify()

    def remove(self, job: Job[Any]) -> bool:
        """Take one out, wherever it stands; False if it does not wait."""
        with self._changed:
            if job not in self._jobs:
                return False
            self._jobs.remove(job)
            return True

    def take(self, at_hand: object, timeout: float | None) -> Job[Any] | None:
        """Wait for the next job.

        Args:
            at_hand: The key of the model that ran last.
            timeout: Seconds to wait at most; None waits for a job or the end.

        Returns:
            None if none came in time, or the queue is closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_closed, timeout)
            if not self._jobs:
                return None
            job = self._next(at_hand)
            self._row = self._row + 1 if job.key == at_hand else 1
            self._jobs.remove(job)
            return job

    def _next(self, at_hand: object) -> Job[Any]:
        highest = max(job.priority for job in self._jobs)
        first = [job for job in self._jobs if job.priority == highest]
        if self._row < MOST_IN_A_ROW:
            return next((job for job in first if job.key == at_hand), first[0])
        return first[0]

    @property
    def is_over(self) -> bool:
        """Whether it is closed and empty."""
        with self._changed:
            return self._is_closed and not self._jobs

    def close(self) -> None:
        """Take no more jobs; those that wait are still taken out."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def listed(self) -> tuple[Job[Any], ...]:
        """The jobs that wait, the oldest first."""
        with self._changed:
            return tuple(self._jobs)
