"""What a command tells programs while it works: `--events json`, one JSON object a line."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from ipa.errors import RequestError, shown
from ipa.request.result import Progress

VERSION = 1
"""That of the lines' schema: fields may be added to it, but none changes what it means."""

_KIND, _STANDARD_ERROR = "json", 2


class EventLines:
    """A writer of events to a file descriptor. Safe from any thread.

    Who reads may go: then the command goes on, and writes no more.
    """

    def __init__(self, descriptor: int) -> None:
        self._sink = os.fdopen(descriptor, "wb", closefd=False)
        self._lock, self._is_read = threading.Lock(), True

    @classmethod
    def asked(cls, text: object) -> EventLines | None:
        """The writer that `--events` asks for: "json", or "json:" and the number of a descriptor.

        Raises:
            RequestError: It is something else, or that descriptor is not open for writing.
        """
        if text is None:
            return None
        kind, _, number = str(text).partition(":")
        if kind != _KIND or (number and not number.isdecimal()):
            raise RequestError(
                "events must be json, or json: and a file descriptor",
                found=shown(text),
                remedy="write --events json, or --events json:3",
            )
        try:
            return cls(int(number or _STANDARD_ERROR))
        except (OSError, OverflowError) as error:
            raise RequestError(
                f"events cannot be written to the file descriptor {number}",
                found=str(error),
                remedy="open it in the program that starts this command",
            ) from error

    def tell(self, event: str, told: Mapping[str, Any]) -> None:
        """Write an event with its fields."""
        line = json.dumps({"v": VERSION, "event": event, **told}, ensure_ascii=True) + "\n"
        with self._lock:
            if not self._is_read:
                return
            try:
                self._sink.write(line.encode("ascii"))
                self._sink.flush()
            except BrokenPipeError:  # who read it has gone; the picture is still wanted
                self._is_read = False

    def progress(self, event: Progress) -> None:
        """Write an event of a run, or of loading."""
        told = {"stage": event.stage, "step": event.step, "total": event.total}
        self.tell("progress", {**told, "unit": event.unit, "eta_s": event.eta_s})
