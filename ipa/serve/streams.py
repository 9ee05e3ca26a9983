"""Streams of events: counted, kept alive, and ended with those who read them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ipa.request.result import Progress

from .desk import Record
from .faults import Fault
from .limits import Limits

_LOG = logging.getLogger("ipa.serve")
_ALIVE_S = 15.0  # a comment is sent after so many seconds of silence, so that nobody hangs up


class Streams:
    """The event streams that are open, counted."""

    def __init__(self, limits: Limits) -> None:
        self._most, self._open = limits.streams, 0

    def __len__(self) -> int:
        return self._open

    def begin(self) -> None:
        """Count one more. Raises Fault where there are too many."""
        if self._open >= self._most:
            raise Fault(
                503,
                "too many event streams are open",
                found=str(self._open),
                remedy="close one, or ask for the job itself now and then",
            )
        self._open += 1

    def end(self) -> None:
        """Count one less."""
        self._open -= 1


class EventStream(StreamingResponse):
    """An answer of events, whose end is told whether or not anybody reads to it.

    Args:
        lines: The events as they are sent.
        end: Called once, when the last was sent, or the client has gone or takes nothing more.
    """

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncGenerator[bytes, None], end: Callable[[], None]) -> None:
        super().__init__(lines, headers={"cache-control": "no-store"})
        self._lines, self._end = lines, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        except (ClientDisconnect, OSError) as error:
            _LOG.info("a stream of events ends before its job: %s", error or "the client has gone")
        finally:
            self._end()
            await self._lines.aclose()


async def events(record: Record, after: int) -> AsyncIterator[tuple[int, Progress]]:
    """The events of a job with their numbers, which begin with 1, behind a given one."""
    number = 0
    async for event in record.job:
        number += 1
        if number > after:
            yield number, event


async def alive(lines: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Lines, and a comment wherever nothing came for long."""
    upcoming: asyncio.Future[bytes] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(_next(lines))
            came, _ = await asyncio.wait({upcoming}, timeout=_ALIVE_S)
            if not came:
                yield b": waiting\n\n"
                continue
            try:
                line = upcoming.result()
            except _Over:
                return
            upcoming = None
            yield line
    finally:
        if upcoming is not None and not upcoming.done():
            upcoming.cancel()


class _Over(Exception):  # noqa: N818 - a sign, not an error
    """There are no more lines: StopAsyncIteration cannot leave a coroutine."""


async def _next(lines: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(lines)
    except StopAsyncIteration as over:
        raise _Over from over


def server_sent(event: str, data: Any, number: int | None = None) -> bytes:
    """An event as it is sent: name, number and JSON, in lines."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {event}\ndata: {json.dumps(data)}\n\n".encode()


def event_number(text: str | None) -> int:
    """The number that Last-Event-ID names; 0 where there is none, or no such."""
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else 0
