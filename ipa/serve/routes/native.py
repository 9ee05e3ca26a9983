"""Our own API: `/api/v1`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from ipa.engine.document import JobDocument
from ipa.engine.job import Job
from ipa.engine.needs import KINDS
from ipa.errors import IpaError, RequestError, shown
from ipa.memory.plan import MemoryPlan
from ipa.pipeline.documents.json_schema import request_schema
from ipa.prepare.samplers.schedules import NAMES as SAMPLERS
from ipa.prepare.scaling.presets import NAMES as PRESETS
from ipa.version import __version__

from ..asked import Asked, field_names, make_job
from ..bodies import json_body
from ..desk import Desk, Record, progress_of, state_of
from ..dialects.native import read_job
from ..faults import Fault, fault_of
from ..images import MEDIA, as_base64, encoded
from ..pictures import FORMATS, CountedPictures
from ..streams import EventStream, Streams, alive, event_number, events, server_sent
from .words import body_of, refusals

Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="An id that the server gave.")]
R = TypeVar("R")
_ENDS = {"completed": "done", "failed": "failed", "cancelled": "cancelled"}


def native_routes(desk: Desk) -> APIRouter:
    """The routes over a desk."""
    router = APIRouter(prefix="/api/v1", tags=["native"])
    _add_jobs(router, desk)
    _add_events(router, desk, Streams(desk.limits))
    _add_results(router, desk)
    _add_pictures(router, desk)
    _add_words(router, desk)
    return router


def _add_jobs(router: APIRouter, desk: Desk) -> None:
    @router.post(
        "/jobs",
        status_code=202,
        responses=refusals(400, 404, 413, 415, 422, 429, 503) | {202: {"links": _FURTHER}},
        openapi_extra=body_of("Job"),
    )
    async def submit(request: Request) -> dict[str, Any]:
        """Ask for pictures. The answer comes at once; the job goes on by itself."""
        asked = read_job(await json_body(request))
        record = await run_in_threadpool(desk.submit, asked)
        links = {name: f"/api/v1/jobs/{record.id}{end}" for name, end in _LINKS.items()}
        return record.describe() | {"links": links}

    @router.post(
        "/plan",
        responses=refusals(400, 404, 413, 415, 422, 429, 503),
        openapi_extra=body_of("Job"),
    )
    async def plan(request: Request) -> dict[str, Any]:
        """The memory that a job would take, stage by stage; nothing is computed."""
        foretold = await _answered(desk, read_job(await json_body(request)), _memory)
        return foretold.describe()

    @router.get("/jobs")
    def jobs() -> dict[str, Any]:
        """All jobs that are known, and what is loaded."""
        return {"jobs": [one.describe() for one in desk.records()], "engine": state_of(desk)}

    @router.get("/jobs/{job_id}", responses=refusals(404, 422))
    def job(job_id: Id) -> dict[str, Any]:
        """How a job stands; its pictures once it has ended."""
        return desk.record(job_id).describe()

    @router.delete("/jobs/{job_id}", responses=refusals(404, 422))
    def cancel(job_id: Id) -> dict[str, Any]:
        """Cancel a job: at once where it waits, else before its next step."""
        return {"id": job_id, "was": desk.record(job_id).job.cancel()}


_LINKS = {"self": "", "events": "/events"}
_JOB = "/api/v1/jobs/{job_id}"
# What a job's id is for, as OpenAPI says it.
_FURTHER = {
    name: {
        "operationRef": f"#/paths/{(_JOB + end).replace('/', '~1')}/{method}",
        "parameters": {"job_id": "$response.body#/id"},
    }
    for name, end, method in (
        ("state", "", "get"),
        ("cancel", "", "delete"),
        ("events", "/events", "get"),
        ("preview", "/preview", "get"),
        ("influence", "/influence", "get"),
    )
}


def _add_events(router: APIRouter, desk: Desk, streams: Streams) -> None:
    @router.get(
        "/jobs/{job_id}/events",
        responses=refusals(404, 422, 503) | {200: {"content": {"text/event-stream": {}}}},
        response_class=Response,
    )
    async def follow(job_id: Id, request: Request) -> Response:
        """A job's events as they come (server-sent), behind the number in Last-Event-ID."""
        record = desk.record(job_id)
        after = event_number(request.headers.get("last-event-id"))
        streams.begin()

        return EventStream(alive(_lines(record, after)), streams.end)

    @router.get(
        "/jobs/{job_id}/preview",
        responses=refusals(404, 422) | {200: {"content": {"image/webp": {}}}},
        response_class=Response,
    )
    async def preview(job_id: Id) -> Response:
        """The last preview of a job that makes them (`preview` of its request)."""
        image = desk.record(job_id).preview
        if image is None:
            raise Fault(
                404, "this job has no preview yet", remedy='"preview": "latent" asks for them'
            )
        file = await run_in_threadpool(encoded, image, "webp")
        return Response(file, media_type="image/webp", headers={"cache-control": "no-store"})


async def _lines(record: Record, after: int) -> AsyncIterator[bytes]:
    number = after
    async for number, event in events(record, after):
        if event.stage == "done":
            continue
        told: dict[str, Any] = {"id": record.id, **progress_of(event)}
        if event.preview is not None:
            told["preview"] = f"/api/v1/jobs/{record.id}/preview?step={event.step}"
        yield server_sent("progress", told, number)
    yield server_sent(_ENDS[record.job.state], record.describe(), number + 1)


def _add_results(router: APIRouter, desk: Desk) -> None:
    @router.get(
        "/results/{image_id}",
        responses=refusals(404, 422) | {200: {"content": {kind: {} for kind in MEDIA.values()}}},
        response_class=Response,
    )
    async def result(
        image_id: Id, format: Annotated[str, Query(pattern="^(png|jpeg|webp)$")] = "png"
    ) -> Response:
        """A finished picture."""
        record, image = desk.image(image_id)
        file = await run_in_threadpool(encoded, image, format, record.kept.info)
        return Response(file, media_type=MEDIA[format], headers={"cache-control": "no-store"})

    @router.get(
        "/jobs/{job_id}/influence",
        responses=refusals(404, 422) | {200: {"content": {"image/png": {}}}},
        response_class=Response,
    )
    async def influence(
        job_id: Id,
        prompt: Annotated[int, Query(ge=0, le=1000)] = 0,
        picture: Annotated[int | None, Query(ge=0, le=1000)] = None,
        image: Annotated[int, Query(ge=0, le=1023)] = 0,
        section: Annotated[str | None, Query(pattern="^(down|mid|up)$")] = None,
    ) -> Response:
        """Where an image prompt acted, in grey: black is nowhere, white is alone. The job must have
        asked for it, with `influence` of its request."""
        found = desk.record(job_id).kept.influence
        if found is None:
            raise Fault(404, "this job has no influence", remedy='"influence": true asks for it')
        try:
            shares = found.map(prompt, picture, image=image, sites=section)  # type: ignore[arg-type]
        except RequestError as error:
            raise fault_of(error) from error
        grey = Image.fromarray(np.round(shares * 255).astype(np.uint8))
        file = await run_in_threadpool(encoded, grey)
        return Response(file, media_type="image/png")


def _add_pictures(router: APIRouter, desk: Desk) -> None:
    @router.put(
        "/pictures",
        responses=refusals(400, 413, 422),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
            }
        },
    )
    async def put(request: Request) -> dict[str, Any]:
        """Put a picture's file (PNG, JPEG, WebP) here, for jobs to name by {"sha256": …}."""
        file = await request.body()

        def work() -> dict[str, Any]:
            CountedPictures(desk.shelf, desk.limits).open(file)  # within the limits, or refused
            sha256, image = desk.shelf.put(file)
            return {"sha256": sha256, "width": image.width, "height": image.height}

        told: dict[str, Any] = await _done(work)
        return told

    @router.post(
        "/encoder-view",
        responses=refusals(400, 404, 413, 415, 422, 429, 503),
        openapi_extra=body_of("EncoderView"),
    )
    async def encoder_view(request: Request) -> dict[str, Any]:
        """What the image encoder sees of an image prompt's pictures, as PNG in base64."""
        body = await json_body(request)
        entry = body.get("image_prompt")
        if not isinstance(entry, dict):
            raise Fault(422, "image_prompt is an object", field="image_prompt", found=shown(entry))
        asked = Asked(request={"image_prompts": [entry]}, model=body.get("model"))
        return {"images": await _done_views(desk, asked)}


async def _done_views(desk: Desk, asked: Asked) -> list[str]:
    if asked.model is not None and not isinstance(asked.model, str):
        raise Fault(422, "model is a name", field="model", found=shown(asked.model))
    views = await _answered(desk, asked, _views)
    return [as_base64(await run_in_threadpool(encoded, view)) for view in views]


def _views(desk: Desk, document: JobDocument) -> Job[list[Image.Image]]:
    (prompt,) = document.arguments["image_prompts"]
    return desk.engine.call(document.needs, lambda pipeline: pipeline.encoder_views(prompt))


def _memory(desk: Desk, document: JobDocument) -> Job[MemoryPlan]:
    return desk.engine.plan(document.needs, document.arguments)


async def _answered(desk: Desk, asked: Asked, ask: Callable[[Desk, JobDocument], Job[R]]) -> R:
    """What the engine answers of a job that is not run."""

    def submit() -> Job[R]:
        return ask(desk, make_job(asked, desk.offers, desk.shelf, desk.limits))

    try:
        return await (await run_in_threadpool(submit))
    except Exception as error:
        raise fault_of(error, field_names(asked.names)) from error


async def _done(work: Any) -> Any:
    try:
        return await run_in_threadpool(work)
    except IpaError as error:
        raise fault_of(error) from error


def _add_words(router: APIRouter, desk: Desk) -> None:
    @router.get("/models")
    def models() -> dict[str, Any]:
        """What may be named: models, and by kind what stands beside them; the first is usual."""
        offered = {kind: list(desk.offers.parts[kind]) for kind in KINDS}
        return {"models": list(desk.offers.models), **offered}

    @router.get("/capabilities")
    def capabilities() -> dict[str, Any]:
        """Versions, limits, samplers, presets of layers, formats."""
        limits = {name: getattr(desk.limits, name) for name in type(desk.limits).__slots__}
        return {
            "version": __version__,
            "job_version": 1,
            "limits": limits,
            "samplers": list(SAMPLERS),
            "layers": list(PRESETS),
            "pictures": [name for name in FORMATS if name != "MPO"],
            "results": list(MEDIA),
            "previews": ["latent"],
        }

    @router.get("/schema")
    def schema() -> JSONResponse:
        """The JSON Schema of a job's `request`; pictures are {"sha256": …} or {"data": …}."""
        return JSONResponse(request_schema())
