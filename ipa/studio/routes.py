"""The routes of the studio's page, beside those of the server: `/studio`."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
import json
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from ipa.errors import IpaError, PictureMissingError
from ipa.prepare.images.pictures import open_bytes, to_rgb
from ipa.prepare.samplers.schedules import NAMES as SAMPLERS
from ipa.prepare.scaling.presets import NAMES as LAYERS
from ipa.serve.bodies import json_body
from ipa.serve.desk import Desk
from ipa.serve.faults import Fault, fault_of
from ipa.serve.images import encoded
from ipa.serve.streams import EventStream, Streams, server_sent
from ipa.version import __version__

from .code import WAYS, code
from .likeness import likeness
from .restoring import restored
from .studio import Studio

Name = Annotated[str, Path(pattern=r"^\d{8}-\d{6}-[0-9a-f]{6}$")]
Hash = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
Width = Annotated[int | None, Query(alias="w", ge=16, le=2048)]
T = TypeVar("T")

_MEDIA = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_LOOK_S, _ALIVE_LOOKS = 0.2, 75  # looks for news, and those without any until a sign of life
_PAGE = 200  # pictures of the gallery that are told at once
_FOREVER = {"cache-control": "private, max-age=31536000, immutable"}


def studio_routes(studio: Studio) -> APIRouter:
    """The routes over a studio; its page is the server's root."""
    router = APIRouter(include_in_schema=False)
    _add_page(router)
    _add_jobs(router, studio)
    _add_pictures(router, studio)
    _add_gallery(router, studio)
    _add_uses(router, studio)
    return router


def _add_page(router: APIRouter) -> None:
    files = _files()

    @router.get("/")
    def page(request: Request) -> Response:
        """The page."""
        return _file(request, files["index.html"], "text/html")

    @router.get("/studio/files/{name:path}")
    def file(name: str, request: Request) -> Response:
        """One of its files."""
        if name not in files:
            raise Fault(404, "there is no such file")
        return _file(request, files[name], _MEDIA[name.rpartition(".")[2]])


def _files() -> dict[str, bytes]:
    """The page's files by name: what is not among them cannot be asked for."""
    root = importlib.resources.files("ipa.studio") / "static"
    folders = {"": root, "vendor/": root / "vendor"}
    return {
        f"{start}{entry.name}": entry.read_bytes()
        for start, folder in folders.items()
        for entry in folder.iterdir()
        if entry.name.rpartition(".")[2] in _MEDIA
    }


def _file(request: Request, data: bytes, media: str) -> Response:
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    headers = {"cache-control": "no-cache", "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media, headers=headers)


def _add_jobs(router: APIRouter, studio: Studio) -> None:
    streams = Streams(studio.desk.limits)

    @router.get("/studio/start")
    def start() -> dict[str, Any]:
        """What a page has to choose from."""
        return {"version": __version__, **_offered(studio.desk), "folder": str(studio.folder.root)}

    @router.post("/studio/jobs", status_code=202)
    async def submit(request: Request) -> dict[str, Any]:
        """Put a job in the queue."""
        body = await json_body(request)
        record = await run_in_threadpool(studio.submit, body)
        return {"id": record.id}

    @router.get("/studio/events")
    async def events() -> Response:
        """How the queue stands, and again whenever that changes (server-sent)."""
        streams.begin()
        return EventStream(_news(studio), streams.end)

    @router.post("/studio/likeness")
    async def like(request: Request) -> dict[str, Any]:
        """How like their reference pictures are, and the smallest weight that is enough."""
        body = await json_body(request)
        try:
            return await likeness(studio, body)
        except Exception as error:
            raise fault_of(error) from error


def _offered(desk: Desk) -> dict[str, Any]:
    parts = {kind: list(named) for kind, named in desk.offers.parts.items()}
    models = {name: needs.model == "demo" for name, needs in desk.offers.models.items()}
    limits = {"pixels": desk.limits.made_pixels, "side": desk.limits.side}
    told = {"models": list(models), "demos": [name for name, is_demo in models.items() if is_demo]}
    return {**told, **parts, "samplers": list(SAMPLERS), "layers": list(LAYERS), "limits": limits}


async def _news(studio: Studio) -> AsyncGenerator[bytes, None]:
    """The state whenever it is another one, looked at a few times a second.

    So a page that reads slowly gets the newest, and nothing waits for it in memory.
    """
    last, silent = "", 0
    while True:
        now = json.dumps(studio.state())
        if now != last:
            last, silent = now, 0
            yield server_sent("state", json.loads(now))
        elif silent >= _ALIVE_LOOKS:
            silent = 0
            yield b": waiting\n\n"
        silent += 1
        await asyncio.sleep(_LOOK_S)


def _add_pictures(router: APIRouter, studio: Studio) -> None:
    @router.put("/studio/pictures")
    async def put(request: Request) -> dict[str, Any]:
        """Take a picture's file."""
        return await _done(studio.pictures.put, await request.body())

    @router.get("/studio/pictures/{sha256}")
    async def picture(sha256: Hash, w: Width = None) -> Response:
        """A picture that others are made of."""
        file = await _done(studio.pictures.file, sha256)
        return await _picture(file, w)

    @router.post("/studio/pictures/{sha256}/edges")
    async def outlines(sha256: Hash) -> dict[str, Any]:
        """Outlines of a picture, for a control."""
        return await _done(studio.pictures.edges, sha256)

    @router.post("/studio/restore")
    async def restore(request: Request) -> dict[str, Any]:
        """What a picture's file says of how it was made."""
        return await _done(restored, await request.body(), studio.pictures)


def _add_gallery(router: APIRouter, studio: Studio) -> None:
    @router.get("/studio/gallery")
    def gallery(after: str | None = None) -> dict[str, Any]:
        """The names of the pictures that were made, the newest first."""
        names = [name for name in studio.folder.names() if after is None or name < after]
        return {"names": names[:_PAGE], "more": len(names) > _PAGE}

    @router.get("/studio/gallery/{name}")
    async def made(name: Name, w: Width = None) -> Response:
        """A picture that was made, whole as it lies on disk, or small."""
        path = await _done(studio.folder.path, name)
        return await _picture(await run_in_threadpool(path.read_bytes), w)

    @router.get("/studio/gallery/{name}/settings")
    async def settings(name: Name) -> dict[str, Any]:
        """What made it."""
        path = await _done(studio.folder.path, name)
        file = await run_in_threadpool(path.read_bytes)
        return await _done(restored, file, studio.pictures)

    @router.get("/studio/gallery/{name}/code")
    async def written(
        name: Name, way: Annotated[str, Query(alias="as")], request: Request
    ) -> dict[str, str]:
        """What makes it again elsewhere."""
        if way not in WAYS:
            raise Fault(404, "it cannot be written so", found=way[:20], remedy=", ".join(WAYS))
        told = await settings(name)
        if told["job"] is None:
            raise Fault(404, "this picture keeps no request")
        address = str(request.base_url).rstrip("/")
        return {"text": await _done(code, way, told["job"], studio, address)}


def _add_uses(router: APIRouter, studio: Studio) -> None:
    """What is done with a picture that was made."""

    @router.post("/studio/gallery/{name}/reference")
    async def reference(name: Name) -> dict[str, Any]:
        """Make a reference of it."""
        path = await _done(studio.folder.path, name)
        return await _done(studio.pictures.put, await run_in_threadpool(path.read_bytes))

    @router.delete("/studio/gallery/{name}")
    async def delete(name: Name) -> dict[str, Any]:
        """Move it to the bin."""
        await _done(studio.folder.bin, name)
        studio.changed()
        return {}

    @router.post("/studio/gallery/{name}/back")
    async def back(name: Name) -> dict[str, Any]:
        """Take it out of the bin."""
        await _done(studio.folder.take_back, name)
        studio.changed()
        return {}


async def _picture(file: bytes, width: int | None) -> Response:
    if width is None:
        return Response(file, media_type="image/png", headers=_FOREVER)
    small = await _done(_small, file, width)
    return Response(small, media_type="image/webp", headers=_FOREVER)


def _small(file: bytes, width: int) -> bytes:
    image = to_rgb(open_bytes(file))
    image.thumbnail((width, width), Image.Resampling.LANCZOS)
    return encoded(image, "webp", quality=88)


async def _done(work: Callable[..., T], *given: Any) -> T:
    try:
        return await run_in_threadpool(work, *given)
    except PictureMissingError as error:
        raise Fault(404, error.what, found=error.found, remedy=error.remedy) from error
    except IpaError as error:
        raise fault_of(error) from error
