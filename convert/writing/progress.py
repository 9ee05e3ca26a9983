"""Bytes written so far, told to whoever asks."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes in all."""


class Counter:
    """Bytes written so far, over several files."""

    def __init__(self, total: int, report: Progress | None) -> None:
        self._done, self._total, self._report = 0, total, report

    def add(self, count: int) -> None:
        """So many more are written."""
        self._done += count
        if self._report is not None:
            self._report(self._done, self._total)
