"""A worker: reads requests, has the engine do them, and answers each of them once."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .channel import MAX_LINE, Channel, OversizedLine
from .faults import BAD_PARAMS, INVALID, NO_METHOD, NOT_INITIALIZED, PARSE, Fault, fault_of
from .methods import METHODS, Desk

_LOG = logging.getLogger("ipa.engine.stdio")

PROTOCOL = 1
"""The version of the protocol."""

_LAST_WORDS_S = 2.0
_QUICK = frozenset({"cancel", "ping"})


class Worker:
    """A worker on a channel.

    One thread reads, and does what takes no time; another does the rest in order; the engine has
    its own. Nothing heavy is imported before `initialize` is answered.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._todo: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._desk: Desk | None = None
        self._is_over = threading.Event()

    def run(self) -> None:
        """Serve until the channel ends, `shutdown` is asked for, or the parent has gone."""
        clerk = threading.Thread(target=self._work, name="ipa-stdio", daemon=True)
        clerk.start()
        threading.Thread(target=self._watch_parent, args=(os.getppid(),), daemon=True).start()
        threading.Thread(target=self._read, name="ipa-stdin", daemon=True).start()
        self._is_over.wait()
        self._todo.put(None)
        threading.Thread(target=_leave_at_last, daemon=True).start()
        clerk.join()
        if self._desk is not None:
            self._desk.close()

    def stop(self) -> None:
        """End it, from any thread or a signal's handler."""
        self._is_over.set()

    def _read(self) -> None:
        """Take messages off the channel, and put them where they are worked on."""
        try:
            for line in self._channel.lines():
                message = self._parsed(line)
                if message is None:
                    continue
                if message.get("method") in _QUICK and self._desk is not None:
                    self._handle(message)
                else:
                    self._todo.put(message)
        except OversizedLine:
            self._answer(None, fault=Fault(PARSE, f"a line of more than {MAX_LINE} bytes"))
        self.stop()

    def _parsed(self, line: bytes) -> Mapping[str, Any] | None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            self._answer(None, fault=Fault(PARSE, "a line that is no JSON", {"found": str(error)}))
            return None
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            number = message.get("id") if isinstance(message, dict) else None
            self._answer(number, fault=Fault(INVALID, "a message without a method"))
            return None
        return message

    def _work(self) -> None:
        while (message := self._todo.get()) is not None:
            self._handle(message)
            if message["method"] == "shutdown":
                self.stop()

    def _handle(self, message: Mapping[str, Any]) -> None:
        number, name = message.get("id"), message["method"]
        try:
            params = message.get("params", {})
            if not isinstance(params, dict):
                raise Fault(BAD_PARAMS, "params must be an object")
            if name == "initialize":
                self._answer(number, self._initialize(params))
                return
            if self._desk is None:
                raise Fault(NOT_INITIALIZED, "initialize must come first")
            method = METHODS.get(name)
            if method is None:
                known = ", ".join(["initialize", *METHODS])
                raise Fault(NO_METHOD, f"there is no method {name[:80]!r}", {"remedy": known})
            method(self._desk, number, params)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is answered
            if not isinstance(error, Fault):
                _LOG.debug("%s failed", name, exc_info=error)
            self._answer(number, fault=fault_of(error))

    def _initialize(self, params: Mapping[str, Any]) -> dict[str, Any]:
        if self._desk is not None:
            raise Fault(INVALID, "initialize comes once")
        if params.get("protocol", PROTOCOL) != PROTOCOL:
            asked = {"found": params.get("protocol"), "remedy": f"protocol {PROTOCOL}"}
            raise Fault(BAD_PARAMS, "this protocol is not known here", asked)
        self._desk = Desk(self._answer, self._tell, params)
        return {"protocol": PROTOCOL, **self._desk.introduce()}

    def _answer(self, number: Any, result: Any = None, *, fault: Fault | None = None) -> None:
        """Answer a request; a notification, which has no id, only if it cannot be read."""
        if number is None and fault is None:
            return
        body = {"result": result} if fault is None else {"error": fault.to_json()}
        self._channel.send({"jsonrpc": "2.0", "id": number, **body})

    def _tell(self, method: str, params: Mapping[str, Any]) -> None:
        self._channel.send({"jsonrpc": "2.0", "method": method, "params": params})

    def _watch_parent(self, parent: int) -> None:
        while not self._is_over.wait(1.0):
            if os.getppid() != parent:  # it has gone, perhaps without closing the pipe
                self.stop()


def _leave_at_last() -> None:
    """End the process if a step does not: whoever closed the channel waits for nobody."""
    time.sleep(_LAST_WORDS_S)
    os._exit(0)


Handler = Callable[[Desk, Any, Mapping[str, Any]], None]


def main() -> None:
    """Serve on this process's standard input and output."""
    logging.basicConfig(format="%(name)s: %(message)s")  # to standard error
    worker = Worker(Channel.of_process())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
