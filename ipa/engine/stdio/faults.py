"""Errors as JSON-RPC says them: a code, a sentence, and what is wrong as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa.errors import (
    BackendError,
    Cancelled,
    CheckpointError,
    DeadlineExceeded,
    EngineBusy,
    EngineClosed,
    IpaError,
    NumericalError,
    OutOfMemory,
    RequestError,
)

PARSE, INVALID, NO_METHOD, BAD_PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
BUSY, MEMORY, WORKER_LOST, DEADLINE, NUMERICAL = -32001, -32002, -32003, -32004, -32005
NOT_INITIALIZED, CANCELLED = -32006, -32800

_CODES: Mapping[type[BaseException], int] = {
    Cancelled: CANCELLED,
    DeadlineExceeded: DEADLINE,
    EngineBusy: BUSY,
    EngineClosed: BUSY,
    NumericalError: NUMERICAL,
    RequestError: BAD_PARAMS,
    CheckpointError: BAD_PARAMS,
    BackendError: BAD_PARAMS,
    OutOfMemory: MEMORY,
    MemoryError: MEMORY,
}


class Fault(Exception):  # noqa: N818 - it is what is sent
    """An answer that is an error."""

    def __init__(self, code: int, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, dict(data or {})

    def to_json(self) -> dict[str, Any]:
        """The error member of an answer."""
        return {"code": self.code, "message": self.message, "data": self.data}


def fault_of(error: BaseException) -> Fault:
    """Any error as a fault; those of ours say what was found and what to do."""
    if isinstance(error, Fault):
        return error
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), INTERNAL)
    data: dict[str, Any] = {"type": type(error).__name__}
    if isinstance(error, IpaError):
        data |= error.to_json()
    return Fault(code, str(error) or type(error).__name__, data)
