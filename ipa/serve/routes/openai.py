"""OpenAI's images API: `/v1`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from ..asked import Asked
from ..bodies import form_body, json_body
from ..desk import Desk, Record
from ..dialects import openai as dialect
from ..dialects.openai import Delivery
from ..faults import Fault, fault_of
from ..images import as_base64, encoded
from ..streams import EventStream, Streams, alive, events, server_sent
from ..waiting import result_of, while_listening
from .words import body_of, refusals

_REFUSALS = refusals(400, 401, 404, 409, 413, 415, 422, 429, 503, 504)
_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def openai_routes(desk: Desk) -> APIRouter:
    """The routes over a desk."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])
    begun, streams = int(time.time()), Streams(desk.limits)

    @router.post(
        "/images/generations",
        response_model=None,
        responses=_REFUSALS | _STREAM,
        openapi_extra=body_of("Generation"),
    )
    async def generations(request: Request) -> Response:
        """Pictures of words; with `image_prompts`, which are ours, of pictures too."""
        asked, delivery = dialect.read_generation(await json_body(request))
        return await _answer(desk, streams, request, asked, delivery)

    @router.post(
        "/images/edits",
        response_model=None,
        responses=_REFUSALS | _STREAM,
        openapi_extra=body_of("Edit", "multipart/form-data"),
    )
    async def edits(request: Request) -> Response:
        """Pictures of pictures and words: they are image prompts; with a mask, the first is what is
        edited."""
        form = await form_body(request, desk.limits)
        pictures = [file for name, file in form.files if name in ("image", "image[]")]
        mask = next((file for name, file in form.files if name == "mask"), None)
        asked, delivery = dialect.read_edit(form.texts, pictures, mask)
        return await _answer(desk, streams, request, asked, delivery)

    @router.get("/models")
    def models() -> dict[str, Any]:
        """The offered models."""
        return dialect.models(list(desk.offers.models), begun)

    @router.get("/models/{name}", responses=refusals(404))
    def model(name: str) -> dict[str, Any]:
        """One of them."""
        return dialect.model(desk.offers.model(name), begun)

    return router


async def _answer(
    desk: Desk, streams: Streams, request: Request, asked: Asked, delivery: Delivery
) -> Response:
    record = await run_in_threadpool(desk.submit, asked, "openai")
    if delivery.stream:
        return await _stream(streams, request, record, delivery)
    await result_of(request, record)
    created, base = int(record.created), str(request.base_url)
    pictures = []
    for key, image in record.kept.images:
        if delivery.by_url:
            pictures.append({"url": f"{base}api/v1/results/{key}?format={delivery.kind}"})
        else:
            file = await run_in_threadpool(
                encoded, image, delivery.kind, record.kept.info, delivery.quality
            )
            pictures.append({"b64_json": as_base64(file)})
    warnings = [*record.warnings, *record.kept.info.get("warnings", ())]
    return JSONResponse(dialect.answer(pictures, delivery, _size(record), created, warnings))


def _size(record: Record) -> str:
    _, image = record.kept.images[0]
    return f"{image.width}x{image.height}"


async def _stream(
    streams: Streams, request: Request, record: Record, delivery: Delivery
) -> Response:
    """Events; what fails before the first one is an answer of its own."""

    def end() -> None:
        record.job.cancel()  # it has ended, or nobody reads on
        streams.end()

    try:
        streams.begin()
    except Fault:
        record.job.cancel()
        raise
    lines = _lines(record, delivery)
    try:
        first = await while_listening(request, record, _first(lines))
    except BaseException:
        end()
        raise

    async def all_lines() -> AsyncIterator[bytes]:
        yield first
        async for line in lines:
            yield line

    return EventStream(alive(all_lines()), end)


async def _first(lines: AsyncIterator[bytes]) -> bytes:
    return await anext(lines)


async def _lines(record: Record, delivery: Delivery) -> AsyncIterator[bytes]:
    wanted = delivery.size
    sent, created = 0, int(record.created)
    size = "auto" if wanted is None else f"{wanted[0]}x{wanted[1]}"
    async for _, event in events(record, 0):
        if event.preview is None or sent >= delivery.partial_images:
            continue
        image = event.preview
        if wanted is not None:
            image = image.resize(wanted)
        file = await run_in_threadpool(encoded, image, delivery.kind, None, delivery.quality)
        told = dialect.partial_event(as_base64(file), sent, delivery, size, created)
        yield server_sent(told["type"], told)
        sent += 1
    try:
        await record.job
    except Exception as error:
        fault = fault_of(error, record.names)
        if sent == 0:
            raise fault from error
        yield server_sent("error", {"type": "error", **fault.body("/v1/")})
        return
    for _, image in record.kept.images:
        file = await run_in_threadpool(
            encoded, image, delivery.kind, record.kept.info, delivery.quality
        )
        told = dialect.completed_event(as_base64(file), delivery, _size(record), created)
        yield server_sent(told["type"], told)
