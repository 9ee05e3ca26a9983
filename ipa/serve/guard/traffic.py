"""What goes over the line: bodies counted while they come, clients that are too slow, headers."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send

from ..faults import Fault
from ..limits import Limits
from .refusals import App, refuse

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        b"frame-ancestors 'none'; form-action 'none'",
    ),
)


class TrafficGuard:
    """Counts what is sent, and gives up clients that neither send nor take anything for long.

    Args:
        app: What stands behind it.
        limits: The bytes of a body, and the seconds of silence.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; a body that is too large or too slow is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        line = _Line(receive, send, self._limits)
        try:
            await self._app(scope, line.receive, line.send)
        except Fault as fault:  # of the line itself, where no route took it
            if not line.has_begun:
                await refuse(scope, send, fault)


class _Line:
    """The line to one client."""

    def __init__(self, receive: Receive, send: Send, limits: Limits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        self._count, self._is_whole = 0, False
        self.has_begun = False

    async def receive(self) -> Message:
        """The next part of the body; behind it, whether the client has gone.

        Raises:
            Fault: The body is too large, or nothing of it came for long.
        """
        if self._is_whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._limits.silent_s)
        except TimeoutError as error:
            raise Fault(
                408, "the body did not come", found=f"nothing in {self._limits.silent_s:g} s"
            ) from error
        self._count += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._count > self._limits.body_bytes:
            raise Fault(
                413,
                "the body is too large",
                found=f"more than {self._limits.body_bytes} bytes",
                remedy="send smaller pictures",
            )
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; a client that takes nothing for long is let go."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            present = {key.lower() for key, _ in message["headers"]}
            missing = [(key, value) for key, value in _HEADERS if key not in present]
            message = {**message, "headers": [*message["headers"], *missing]}
        try:
            await asyncio.wait_for(self._send(message), self._limits.silent_s)
        except TimeoutError as error:
            raise OSError("the client takes nothing") from error
