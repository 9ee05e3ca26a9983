"""Waiting for jobs: their results, and clients that go before they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request

from ipa.request.result import Result

from .desk import Record
from .faults import Fault, fault_of

_LOG = logging.getLogger("ipa.serve")
R = TypeVar("R")


async def result_of(request: Request, record: Record) -> Result:
    """Wait for a job's result; a client that goes away cancels it.

    Raises:
        Fault: It failed, or the client has gone.
    """
    return await while_listening(request, record, _result(record))


async def while_listening(request: Request, record: Record, work: Coroutine[Any, Any, R]) -> R:
    """Wait for something of a job as long as the client waits too; then cancel the job.

    Raises:
        Fault: The work did, or the client has gone.
    """
    done = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            _LOG.info("the client of job %s has gone: it is cancelled", record.id)
            raise Fault(409, "the client has gone")
        return done.result()
    finally:
        if not done.done():
            record.job.cancel()
            done.cancel()
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _result(record: Record) -> Result:
    try:
        return await record.job
    except Exception as error:
        raise fault_of(error, record.names) from error
