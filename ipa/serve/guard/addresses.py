"""Who may be spoken to under which name, and from which pages.

A page of another site reaches a server on this machine through the browser. Its Host is compared
whole, after parsing, so that a name that resolves to this machine is not this machine (DNS
rebinding); its Origin must be the very Host that it speaks to.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.types import Receive, Scope, Send

from ipa.errors import shown

from ..faults import Fault
from .refusals import App, headers_of, refuse

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""The names of this machine to itself."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?")
_ORIGIN = re.compile(r"https?://(.+)")


def host_name(header: str) -> str | None:
    """The name in a Host header, without its port; None if it is no such header."""
    match = _HOST.fullmatch(header.strip().lower())
    return None if match is None else match[1]


class AddressGuard:
    """Refuses requests to other names than ours, and those that pages of other sites make.

    Args:
        app: What stands behind it.
        names: Host names that are ours, compared whole.
    """

    def __init__(self, app: App, names: Collection[str]) -> None:
        self._app, self._names = app, frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            fault = self._host_fault(scope) or _origin_fault(scope) or _site_fault(scope)
            if fault is not None:
                await refuse(scope, send, fault)
                return
        elif scope["type"] == "websocket":
            return  # there are none: the server closes it
        await self._app(scope, receive, send)

    def _host_fault(self, scope: Scope) -> Fault | None:
        hosts = headers_of(scope, b"host")
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name in self._names:
            return None
        told = ", ".join(hosts)
        return Fault(
            403,
            "this server does not go by that name",
            field="Host",
            found=shown(told),
            remedy=f"start it with --allow-host {name or 'NAME'}"
            + ("" if name else ", such as host.docker.internal"),
        )


def _origin_fault(scope: Scope) -> Fault | None:
    origins = headers_of(scope, b"origin")
    if not origins:
        return None
    match = _ORIGIN.fullmatch(origins[0].strip().lower())
    host = headers_of(scope, b"host")[0].strip().lower()
    if len(origins) == 1 and match is not None and match[1] == host:
        return None
    return Fault(
        403,
        "a page of another origin may not use this server",
        field="Origin",
        found=shown(", ".join(origins)),
        remedy="call it from a program, or from its own page",
    )


def _site_fault(scope: Scope) -> Fault | None:
    site = ", ".join(headers_of(scope, b"sec-fetch-site"))
    if site in ("", "same-origin", "none"):
        return None
    mode = headers_of(scope, b"sec-fetch-mode")
    if scope["method"] == "GET" and scope["path"] == "/" and mode == ["navigate"]:
        return None
    return Fault(
        403,
        "a page of another site may not use this server",
        field="Sec-Fetch-Site",
        found=shown(site),
        remedy="call it from a program, or from its own page",
    )
