"""Refusals before a route is reached: logged, and in the shape of the path's dialect."""

from __future__ import annotations

import json
import logging
from typing import TypeAlias

from starlette.types import ASGIApp, Scope, Send

from ..faults import Fault

_LOG = logging.getLogger("ipa.serve")
App: TypeAlias = ASGIApp


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """All values of a header of a request, in order."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


async def refuse(scope: Scope, send: Send, fault: Fault) -> None:
    """Answer with a refusal."""
    client = scope.get("client") or ("?", 0)
    _LOG.warning(
        "refused %s %r of %s: %s", scope["method"], scope["path"], client[0], fault.sentence
    )
    body = json.dumps(fault.body(scope["path"])).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",  # what is left of the body is not read
        **fault.headers,
    }
    raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    await send(
        {"type": "http.response.start", "status": fault.status_at(scope["path"]), "headers": raw}
    )
    await send({"type": "http.response.body", "body": body})
