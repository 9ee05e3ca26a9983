"""A1111's API and that of its ControlNet extension: `/sdapi/v1`, `/controlnet`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from ipa.errors import IpaError

from ..asked import Asked
from ..bodies import json_body
from ..desk import Desk
from ..dialects import a1111_answers as answers
from ..dialects.a1111 import OPTIONS, Settings, read_img2img, read_txt2img
from ..faults import Fault, fault_of
from ..fields import read_fields
from ..images import as_base64, encoded
from ..offers import Offers
from ..pictures import CountedPictures
from ..waiting import result_of
from .words import body_of, refusals

_REFUSALS = refusals(400, 401, 404, 409, 413, 415, 422, 429, 503, 504)
Read = Callable[[Mapping[str, Any], Settings, Offers], Asked]
_DIALECT = "a1111"


class Options:
    """The options of a server as A1111's clients set them; one of all clients, as there."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self.now = desk, Settings(model=desk.offers.model(None))

    async def set(self, body: Mapping[str, Any]) -> None:
        """Set those that are kept, and load the model if it is another one. Raises Fault."""
        given = read_fields(body, OPTIONS)
        stop, model = given.get("CLIP_stop_at_last_layers"), given.get("sd_model_checkpoint")
        if stop is not None:
            self.now = replace(self.now, clip_stop=stop)
        if model is None:
            return
        name = self._desk.offers.model(model)
        if name == self.now.model:
            return
        try:
            await self._desk.load(name)
        except IpaError as error:
            raise fault_of(error) from error
        self.now = replace(self.now, model=name)


def a1111_routes(desk: Desk) -> APIRouter:
    """The routes over a desk."""
    router, options = APIRouter(tags=["A1111"]), Options(desk)
    _add_pictures(router, desk, options)
    _add_png_info(router, desk)
    _add_options(router, desk, options)
    _add_progress(router, desk)
    _add_controlnet(router, desk)
    _add_lists(router, desk.offers)
    return router


def _add_pictures(router: APIRouter, desk: Desk, options: Options) -> None:
    async def made(request: Request, read: Read) -> dict[str, Any]:
        body = await json_body(request)
        asked = read(body, options.now, desk.offers)
        record = await run_in_threadpool(desk.submit, asked, _DIALECT)
        await result_of(request, record)
        files = [
            await run_in_threadpool(encoded, image, "png", record.kept.info)
            for _, image in record.kept.images
        ]
        model = desk.offers.model(asked.model)
        warnings = [*record.warnings, *record.kept.info.get("warnings", ())]
        told = {key: value for key, value in body.items() if key not in ("init_images", "mask")}
        sent = body.get("send_images", True) is not False
        images = [as_base64(file) for file in files] if sent else []
        return answers.answer(images, told, record.kept.info, model, warnings)

    @router.post("/sdapi/v1/txt2img", responses=_REFUSALS, openapi_extra=body_of("Txt2Img"))
    async def txt2img(request: Request) -> dict[str, Any]:
        """Pictures of words, and of the pictures of ControlNet units that are IP-Adapters."""
        return await made(request, read_txt2img)

    @router.post("/sdapi/v1/img2img", responses=_REFUSALS, openapi_extra=body_of("Img2Img"))
    async def img2img(request: Request) -> dict[str, Any]:
        """The same, from a picture; with a mask, of a part of it."""
        return await made(request, read_img2img)


def _add_png_info(router: APIRouter, desk: Desk) -> None:
    @router.post(
        "/sdapi/v1/png-info",
        responses=refusals(400, 413, 415, 422),
        openapi_extra=body_of("PngInfo"),
    )
    async def png_info(request: Request) -> dict[str, Any]:
        """What is written in a picture: not read here, since what is sent is decoded alone."""
        body = await json_body(request)
        if not isinstance(body.get("image"), str):
            raise Fault(422, "image is needed, in base64", field="image")
        try:
            pictures = CountedPictures(desk.shelf, desk.limits)
            await run_in_threadpool(pictures.open, body["image"])
        except IpaError as error:
            raise fault_of(error) from error
        return {"info": "", "items": {}, "parameters": {}}


def _add_options(router: APIRouter, desk: Desk, options: Options) -> None:
    @router.get("/sdapi/v1/options")
    def show() -> dict[str, Any]:
        """The options that are kept."""
        return answers.options(options.now)

    @router.post(
        "/sdapi/v1/options",
        responses=refusals(400, 404, 413, 415, 422, 429, 503),
        openapi_extra=body_of("Options"),
    )
    async def change(request: Request) -> dict[str, Any]:
        """Set them; another model is loaded before this answers."""
        await options.set(await json_body(request))
        return {}


def _add_progress(router: APIRouter, desk: Desk) -> None:
    @router.get("/sdapi/v1/progress")
    async def progress() -> dict[str, Any]:
        """How the running job stands."""
        record = desk.running()
        image = None if record is None else record.preview
        file = None if image is None else await run_in_threadpool(encoded, image)
        event = None if record is None else record.last
        waiting = len(desk.engine.state()["waiting"])
        return answers.progress(event, None if file is None else as_base64(file), waiting)

    @router.post("/sdapi/v1/interrupt")
    def interrupt() -> dict[str, Any]:
        """Cancel the running job, if it came in by this API."""
        _interrupt(desk)
        return {}

    @router.post("/sdapi/v1/skip")
    def skip() -> dict[str, Any]:
        """The same."""
        _interrupt(desk)
        return {}


def _interrupt(desk: Desk) -> None:
    record = desk.running()
    if record is not None and record.dialect == _DIALECT:
        record.job.cancel()


def _add_controlnet(router: APIRouter, desk: Desk) -> None:
    @router.get("/controlnet/version")
    def version() -> dict[str, Any]:
        """The version of units that are understood."""
        return {"version": 3}

    @router.get("/controlnet/model_list")
    def model_list() -> dict[str, Any]:
        """What units may name as their model."""
        return {"model_list": answers.control_models(desk.offers)}

    @router.get("/controlnet/module_list")
    def module_list() -> dict[str, Any]:
        """The modules that units may have."""
        return answers.control_modules()

    @router.get("/controlnet/settings")
    def settings() -> dict[str, Any]:
        """How many units there are."""
        return {"control_net_unit_count": answers.UNITS}

    @router.get("/controlnet/control_types")
    def control_types() -> dict[str, Any]:
        """Modules and models by what they are for."""
        return {"control_types": answers.control_types(desk.offers)}


def _add_lists(router: APIRouter, offers: Offers) -> None:
    """The lists that clients ask for, all without arguments."""
    lists: Mapping[str, Callable[[], Any]] = {
        "sd-models": lambda: answers.models(offers),
        "samplers": answers.samplers,
        "schedulers": answers.schedulers,
        "upscalers": lambda: [{"name": "None"}],
        "latent-upscale-modes": list,
        "sd-vae": list,
        "sd-modules": list,
        "hypernetworks": list,
        "prompt-styles": list,
        "face-restorers": list,
        "loras": lambda: answers.loras(offers),
        "embeddings": lambda: answers.embeddings(offers),
        "cmd-flags": dict,
        "memory": lambda: {"ram": {}, "cuda": {}},
        "scripts": lambda: {"txt2img": ["controlnet"], "img2img": ["controlnet"]},
    }
    for name, made in lists.items():
        router.add_api_route(
            f"/sdapi/v1/{name}", _told(made), methods=["GET"], name=name, summary=name
        )


def _told(made: Callable[[], Any]) -> Callable[[], Any]:
    def told() -> Any:
        return made()

    return told
