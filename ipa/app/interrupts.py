"""Ctrl-C while C++ computes: seen at once, although Python's own handlers have to wait.

Python runs a signal's handler in the main thread, between two instructions of its own: a step of a
large picture is one call into C++, and may take a minute. But the C half of Python's handling of
signals writes a byte to a pipe (`signal.set_wakeup_fd`) the moment one comes, whatever the main
thread does. A thread that reads the pipe hears of it at once, for MLX and torch release the
interpreter while they compute.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CODE = 130
"""The exit code of a process that Ctrl-C ended: 128 + SIGINT, as shells have it."""


def leave() -> None:
    """End the process now, from any thread, with the cursor shown again that a bar hides.

    Nothing is cleaned up: the main thread may be in a call that does not come back for a minute. No
    picture is half written under its own name (`ipa.app.output`), so there is nothing to mend.
    """
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")
    os._exit(CODE)


@contextmanager
def heard(first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """Call functions at the first and at the second SIGINT, in a thread of their own."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    thread = threading.Thread(target=_listen, args=(reading, first, second), daemon=True)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)


def _listen(reading: int, first: Callable[[], None], second: Callable[[], None]) -> None:
    count = 0
    while signals := os.read(reading, 64):  # a byte for each signal that Python has a handler for
        for number in signals:
            count += number == signal.SIGINT
            if number == signal.SIGINT and count <= 2:
                (first if count == 1 else second)()
