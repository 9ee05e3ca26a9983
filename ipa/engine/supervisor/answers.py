"""Errors that a worker answered, as the errors that they were there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa import errors
from ipa.engine.stdio.faults import BAD_PARAMS, MEMORY

_PLAIN: Mapping[str, type[errors.IpaError]] = {
    kind.__name__: kind
    for kind in (
        errors.BackendError,
        errors.Cancelled,
        errors.CheckpointError,
        errors.DeadlineExceeded,
        errors.EngineBusy,
        errors.EngineClosed,
        errors.NumericalError,
        errors.OutOfMemory,
        errors.RequestError,
    )
}
_BY_CODE: Mapping[int, type[errors.IpaError]] = {
    BAD_PARAMS: errors.RequestError,
    MEMORY: errors.OutOfMemory,
}


def error_of(told: Mapping[str, Any]) -> Exception:
    """The error of an answer's error member."""
    data = told.get("data") or {}
    kind = _PLAIN.get(data.get("type", "")) or _BY_CODE.get(told.get("code", 0), errors.EngineError)
    return kind(
        data.get("what") or str(told.get("message", "the worker failed")),
        found=str(data.get("found", "")),
        remedy=str(data.get("remedy", "")),
    )
