"""The channel of a worker: one message of ASCII JSON a line, on pipes that nothing else uses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any, BinaryIO

MAX_LINE = 64 << 20
"""The bytes of one line."""


class OversizedLine(Exception):  # noqa: N818 - what is wrong is the other's
    """A line is longer than `MAX_LINE`: what follows cannot be told from its rest."""


class Channel:
    """A pair of pipes. Messages are written whole, from any thread."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink, self._lock = source, sink, Lock()

    @classmethod
    def of_process(cls) -> Channel:
        """That of this process: from now on, what anything prints goes to standard error.

        So does what libraries in C print and what child processes do; and whoever reads standard
        input finds it empty.
        """
        source = os.fdopen(os.dup(0), "rb")
        sink = os.fdopen(os.dup(1), "wb")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        return cls(source, sink)

    def lines(self) -> Iterator[bytes]:
        """The lines until the pipe ends; a last one without its end is given too.

        Raises:
            OversizedLine: A line is too long.
        """
        while line := self._source.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise OversizedLine
            if line.strip():
                yield line

    def send(self, message: Mapping[str, Any]) -> None:
        """Write a message. One that nobody reads any more is dropped: the pipe's end says so."""
        line = json.dumps(message, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        with self._lock:
            try:
                self._sink.write(line.encode("ascii") + b"\n")
                self._sink.flush()
            except (BrokenPipeError, ValueError):
                return
