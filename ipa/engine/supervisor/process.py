"""A worker's process as its supervisor sees it: messages in both directions, and how it ended."""

from __future__ import annotations

import json
import logging
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_LOG = logging.getLogger("ipa.supervisor")
_LAST_LINES = 20
_ISOLATED = ("-X", "utf8", "-I")


class Process:
    """A running worker. What it says comes in one thread; it may be written to from any.

    Args:
        command: What to run.
        on_message: Called with each message; what is no message is logged and passed over.
        on_end: Called once, when it has ended and all that it said was read.
    """

    def __init__(
        self,
        command: Sequence[str],
        on_message: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[Process], None],
    ) -> None:
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C of the terminal is the supervisor's to answer
        )
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._errors = threading.Thread(target=self._drain, daemon=True)
        self._errors.start()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, args=(on_message, on_end), daemon=True).start()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._child.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message and wait for nothing; to one that has ended it is lost."""
        line = json.dumps({"jsonrpc": "2.0", **message}).encode("ascii") + b"\n"
        self._outbox.put(line)

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()

    def leave(self, seconds: float) -> None:
        """Let it end by itself: its input ends. After so many seconds it is killed."""
        self._outbox.put(None)
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def ending(self) -> dict[str, Any]:
        """How it ended, JSON-able: its code or signal, and its last lines of standard error."""
        code = self._child.returncode
        told: dict[str, Any] = {"exit_code": code, "stderr": list(self._last)}
        if code is not None and code < 0:
            told["signal"] = signal.Signals(-code).name
        return told

    def _write(self) -> None:
        """Write what is sent, in a thread of its own: a full pipe holds nobody up."""
        stream = self._child.stdin
        if stream is None:
            return
        try:
            with stream:
                while (line := self._outbox.get()) is not None:
                    stream.write(line)
                    stream.flush()
        except (OSError, ValueError):
            _LOG.debug("worker %d does not read any more", self.pid)

    def _drain(self) -> None:
        for line in self._child.stderr or ():
            self._last.append(line.decode(errors="replace").rstrip())

    def _read(
        self,
        on_message: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[Process], None],
    ) -> None:
        for line in self._child.stdout or ():
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                _LOG.warning("the worker printed what is no message: %r", line[:200])
                continue
            on_message(message)
        self._child.wait()
        self._outbox.put(None)
        self._errors.join(1.0)
        on_end(self)


def worker_command(executable: str) -> list[str]:
    """The command of a worker: isolated, so that no PYTHONPATH of an app leaks in."""
    return [executable, *_ISOLATED, "-m", "ipa.engine.stdio"]
