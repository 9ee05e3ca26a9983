"""What a server refuses: status, field, what was found, what to do; in each dialect's shape."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from ipa.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineBusy,
    EngineClosed,
    IpaError,
    OutOfMemory,
    RequestError,
)

_LOG = logging.getLogger("ipa.serve")

RETRY_AFTER_S = 5
"""Seconds after which a client may ask a busy server again."""

_STATUSES: Mapping[type[BaseException], int] = {
    RequestError: 422,
    EngineBusy: 429,
    EngineClosed: 503,
    Cancelled: 409,
    DeadlineExceeded: 504,
    OutOfMemory: 507,
    MemoryError: 507,
}
_CODES: Mapping[int, str] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "cancelled",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_value",
    429: "busy",
    503: "unavailable",
    504: "deadline_exceeded",
    507: "out_of_memory",
}
STATUSES: tuple[int, ...] = (*_CODES, 500)
"""The statuses of refusals."""


class Fault(Exception):  # noqa: N818 - it is what is sent
    """An answer that is a refusal.

    Args:
        status: Of HTTP.
        what: What is wrong.
        field: The field of the request that it speaks of, as the client called it.
        found: What was found there.
        remedy: What to do.
        code: A word for programs; by default that of the status.
    """

    def __init__(
        self,
        status: int,
        what: str,
        *,
        field: str | None = None,
        found: str = "",
        remedy: str = "",
        code: str | None = None,
    ) -> None:
        super().__init__(what)
        self.status, self.what, self.field = status, what, field
        self.found, self.remedy = found, remedy
        self.code = code or _CODES.get(status, "internal_error")

    @property
    def sentence(self) -> str:
        """All of it in one line, for people."""
        parts = [self.what.rstrip(".")]
        parts += [f"found: {self.found.rstrip('.')}"] if self.found else []
        parts += [f"remedy: {self.remedy.rstrip('.')}"] if self.remedy else []
        return "; ".join(parts) + "."

    @property
    def line(self) -> str:
        """The same for a log, whose lines are not a client's to break."""
        return " ".join(self.sentence.split())

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        told = {"Retry-After": str(RETRY_AFTER_S)} if self.status in (429, 503) else {}
        return told | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def status_at(self, path: str) -> int:
        """The status that the dialect of a path has for it: OpenAI says 400 for 422."""
        return 400 if self.status == 422 and path.startswith("/v1/") else self.status

    def body(self, path: str) -> dict[str, Any]:
        """The answer's body in the shape of the dialect that a path belongs to."""
        shape = next((s for start, s in _SHAPES.items() if path.startswith(start)), _native)
        return shape(self)


def fault_of(error: BaseException, names: Mapping[str, str] | None = None) -> Fault:
    """Any error as a fault.

    Args:
        error: Ours say what was found and what to do; of others nothing is told but that they were.
        names: The client's names of our arguments, which say which field an error speaks of.
    """
    if isinstance(error, Fault):
        return error
    status = next((code for kind, code in _STATUSES.items() if isinstance(error, kind)), 500)
    if isinstance(error, IpaError):
        field = field_in(error.what, names or {})
        return Fault(status, error.what, field=field, found=error.found, remedy=error.remedy)
    _LOG.error("a request failed", exc_info=error)
    return Fault(status, "the server could not do this", found=type(error).__name__)


def field_in(what: str, names: Mapping[str, str]) -> str | None:
    """The field that a message speaks of, as the client calls it; None where it does not say.

    Ours begin with the argument's name, perhaps behind that of its object (`ImagePrompt.scale`), or
    name it by a word that is nothing else, such as num_images.
    """
    words = re.findall(r"\w+", what)
    first = words[1] if re.match(r"[A-Z]\w*(\(.*?\))?\.\w", what) else "".join(words[:1])
    named = [first, *(word for word in words if "_" in word)]
    return next((names[word] for word in named if word in names), None)


def _native(fault: Fault) -> dict[str, Any]:
    told = {"code": fault.code, "what": fault.what, "field": fault.field}
    return {"error": {**told, "found": fault.found, "remedy": fault.remedy}}


def _openai(fault: Fault) -> dict[str, Any]:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(
        fault.status, "invalid_request_error" if fault.status < 500 else "server_error"
    )
    told = {"message": fault.sentence, "type": kind, "param": fault.field, "code": fault.code}
    return {"error": {**told, "found": fault.found, "remedy": fault.remedy}}


def _a1111(fault: Fault) -> dict[str, Any]:
    told = {"error": fault.code, "detail": fault.sentence, "body": "", "errors": fault.what}
    return {**told, "field": fault.field, "found": fault.found, "remedy": fault.remedy}


_SHAPES = {"/v1/": _openai, "/sdapi/": _a1111, "/controlnet/": _a1111}
"""The shapes of refusals by the beginning of a path."""
