"""The methods of a worker: what each one does with the engine."""

from __future__ import annotations

import base64
import functools
import itertools
import os
import platform
import resource
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa.errors import RequestError, shown
from ipa.version import __version__

from .channel import MAX_LINE
from .faults import BAD_PARAMS, Fault, fault_of

if TYPE_CHECKING:
    from ipa.engine.engine import Engine
    from ipa.engine.job import Job
    from ipa.engine.needs import Needs
    from ipa.pipeline.documents.pictures import InlinePictures
    from ipa.request.result import Progress, Result

Answer = Callable[..., None]
Tell = Callable[[str, Mapping[str, Any]], None]
_QUEUE = 64


class Desk:
    """What a worker has on its desk: the engine, pictures that were put, handles, open jobs.

    The engine and all that it needs is imported when it is first asked for.
    """

    def __init__(self, answer: Answer, tell: Tell, params: Mapping[str, Any]) -> None:
        self.answer, self.tell = answer, tell
        self.scratch = _folder(params.get("scratch"))
        self.handles: dict[str, Needs] = {}
        self.jobs: dict[str, Job[Any]] = {}
        self._engine: Engine | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def introduce(self) -> dict[str, Any]:
        """What the answer to `initialize` says."""
        is_mac = sys.platform == "darwin" and platform.machine() == "arm64"
        limits = {"line_bytes": MAX_LINE, "queue": _QUEUE}
        return {
            "pid": os.getpid(),
            "versions": {"ipa-mlx": __version__, **_versions("mlx", "torch")},
            "device": "gpu" if is_mac else "cpu",
            "capabilities": {
                "methods": list(METHODS),
                "previews": ["latent", "tiny"],
                "limits": limits,
            },
        }

    @property
    def engine(self) -> Engine:
        """The engine."""
        with self._lock:
            if self._engine is None:
                from ipa.engine.engine import Engine

                self._engine = Engine(queue=_QUEUE)
            return self._engine

    @functools.cached_property
    def pictures(self) -> InlinePictures:
        """The pictures that messages name."""
        from ipa.pipeline.documents.pictures import InlinePictures

        return InlinePictures(allows_paths=True)

    def needs(self, params: Mapping[str, Any]) -> Needs:
        """What a message needs loaded: by its handle, or named in it."""
        from ipa.engine.needs import Needs

        handle = params.get("handle")
        if handle is None:
            known = {"model", *Needs.__dataclass_fields__, *_model_options()}
            return Needs.of({name: value for name, value in params.items() if name in known})
        if handle not in self.handles:
            raise Fault(BAD_PARAMS, f"there is no handle {shown(handle)}", {"remedy": "load first"})
        return self.handles[handle]

    def handle(self, needs: Needs) -> str:
        """The handle of some needs, the same one for the same."""
        for name, other in self.handles.items():
            if other == needs:
                return name
        name = f"m{next(self._numbers)}"
        self.handles[name] = needs
        return name

    def close(self) -> None:
        """Cancel what there is to do, and forget every model."""
        if self._engine is not None:
            self._engine.close(cancel=True)


def _folder(given: object) -> Path | None:
    if given is None:
        return None
    folder = Path(given) if isinstance(given, str) else Path()
    if not folder.is_absolute() or not folder.is_dir():
        raise RequestError(
            "scratch must be a folder, named from the root", found=shown(given), remedy="/…"
        )
    return folder


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _model_options() -> frozenset[str]:
    from ipa.engine.needs import MODEL_OPTIONS

    return MODEL_OPTIONS


def _load(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    needs = desk.needs(params)
    job = desk.engine.load(needs, on_event=_model_events(desk, number))
    _answer_with(desk, number, job, lambda info: {"handle": desk.handle(needs), "info": info})


def _model_events(desk: Desk, number: Any) -> Callable[[Job[Any], Progress], None]:
    def tell(job: Job[Any], event: Progress) -> None:
        if event.unit == "bytes":
            return
        told = {"id": number, "stage": event.stage, "step": event.step, "total": event.total}
        desk.tell("model/progress", {**told, "unit": event.unit})

    return tell


def _unload(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    desk.handles.clear()
    job = desk.engine.unload()
    job.add_done_callback(lambda _: desk.answer(number))


def _put(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    if not {"data", "path"} & params.keys():
        raise Fault(BAD_PARAMS, "put takes data or path")
    given = {key: params[key] for key in ("data", "path") if key in params}
    sha256, image = desk.pictures.shelf.put(desk.pictures.file(given))
    desk.answer(number, {"sha256": sha256, "width": image.width, "height": image.height})


def _generate(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    if number is None or not isinstance(number, (str, int)):
        raise Fault(BAD_PARAMS, "generate has an id, which names its job")
    name = str(number)
    with desk._lock:
        if name in desk.jobs and not desk.jobs[name].done():
            raise Fault(BAD_PARAMS, f"there is a job of the id {name!r} already")
    delivery = Delivery(desk, number, params.get("deliver", "data"))
    preview = params.get("preview") or {}
    shown_as = {"preview": preview.get("kind"), "preview_every": preview.get("every", 1)}
    is_frugal = params.get("frugal", False)
    if not isinstance(is_frugal, bool):
        raise Fault(BAD_PARAMS, "frugal is true or false", {"found": shown(is_frugal)})
    job = desk.engine.submit(
        desk.needs(params),
        _arguments(desk, params) | (shown_as if preview else {}),
        job_id=name,
        priority=params.get("priority", 0),
        deadline_s=params.get("deadline_s"),
        on_event=delivery.event,
        frugal=is_frugal,
    )
    desk.jobs[name] = job
    job.add_done_callback(delivery.finish)


def _arguments(desk: Desk, params: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the call that a message asks for."""
    from ipa.pipeline.documents.arguments import read_arguments

    request = params.get("request", {})
    if not isinstance(request, dict):
        raise Fault(BAD_PARAMS, "request must be an object")
    return read_arguments(request, desk.pictures)


def _plan(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    job = desk.engine.plan(desk.needs(params), _arguments(desk, params))
    _answer_with(desk, number, job, lambda plan: plan.describe())


def _answer_with(desk: Desk, number: Any, job: Job[Any], told: Callable[[Any], Any]) -> None:
    """Answer with what is told of a job's result, or its error, when it has ended."""

    def answer(job: Job[Any]) -> None:
        try:
            desk.answer(number, told(job.result()))
        except BaseException as error:  # noqa: BLE001 - every request is answered once
            desk.answer(number, fault=fault_of(error))

    job.add_done_callback(answer)


class Delivery:
    """What becomes of one job: its notifications, numbered, and its answer."""

    def __init__(self, desk: Desk, number: str | int, deliver: object) -> None:
        if deliver not in ("data", "path"):
            raise Fault(BAD_PARAMS, 'deliver is "data" or "path"', {"found": shown(deliver)})
        if deliver == "path" and desk.scratch is None:
            raise Fault(BAD_PARAMS, "files need a folder", {"remedy": "scratch in initialize"})
        self._desk, self._number, self._deliver = desk, number, deliver
        self._sequence = itertools.count(1)
        self._has_begun = False

    def event(self, job: Job[Result], event: Progress) -> None:
        """Tell the client of an event; the engine's thread."""
        if not self._has_begun:
            self._has_begun = True
            self._tell("job/started")
        if event.stage == "done" or event.unit == "bytes":
            return  # of bytes protocol 1 has no message
        told = {"stage": event.stage, "step": event.step, "total": event.total}
        self._tell("job/progress", **told, unit=event.unit, eta_s=event.eta_s)
        if event.preview is not None:
            self._tell("job/preview", step=event.step, image=_inline(event.preview, "WEBP"))

    def finish(self, job: Job[Result]) -> None:
        """Answer; whichever thread ended it."""
        self._desk.jobs.pop(job.id, None)
        try:
            error = job.exception()
            if error is not None:
                raise error
            result = job.result()
            images = [self._image(*one, result) for one in enumerate(result.images)]
            answer = {"state": job.state, "images": images, "info": result.info}
        except BaseException as error:  # noqa: BLE001 - every job is answered once
            self._desk.answer(self._number, fault=fault_of(error))
        else:
            self._desk.answer(self._number, answer)

    def _image(self, place: int, image: Any, result: Result) -> dict[str, Any]:
        from ipa.files import write_whole
        from ipa.metadata.writing import png_bytes

        file = png_bytes(image, result.info)
        if self._deliver == "data" or self._desk.scratch is None:
            return {"type": "image/png", "data": base64.b64encode(file).decode("ascii")}
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in str(self._number))[:64]
        path = self._desk.scratch / f"{safe}-{place}.png"
        write_whole(path, file)
        return {"type": "image/png", "path": str(path)}

    def _tell(self, method: str, **told: Any) -> None:
        self._desk.tell(method, {"id": self._number, "seq": next(self._sequence), **told})


def _inline(image: Any, kind: str) -> dict[str, str]:
    import io

    file = io.BytesIO()
    image.save(file, kind)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return {"type": f"image/{kind.lower()}", "data": data}


def _cancel(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    job = desk.jobs.get(str(params.get("id")))
    was = "unknown" if job is None else job.cancel()
    desk.answer(number, {"was": was})


def _list(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    handles = {name: needs.to_json() for name, needs in desk.handles.items()}
    desk.answer(number, {**desk.engine.state(), "handles": handles})


def _memory(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scale = 1 if sys.platform == "darwin" else 1024
    desk.answer(number, {"peak_resident_bytes": peak * scale, "pictures": len(desk.pictures.shelf)})


def _encoder_view(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    from ipa.pipeline.documents.arguments import read_arguments

    asked = {"image_prompts": [params.get("image_prompt", {})]}
    (prompt,) = read_arguments(asked, desk.pictures)["image_prompts"]
    job = desk.engine.call(desk.needs(params), lambda pipe: pipe.encoder_views(prompt))
    _answer_with(desk, number, job, lambda views: {"images": [_inline(v, "PNG") for v in views]})


def _schema(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    from ipa.pipeline.documents.json_schema import request_schema

    desk.answer(number, request_schema())


def _ping(desk: Desk, number: Any, params: Mapping[str, Any]) -> None:
    desk.answer(number, {})


METHODS: Mapping[str, Callable[[Desk, Any, Mapping[str, Any]], None]] = {
    "load": _load,
    "unload": _unload,
    "put": _put,
    "plan": _plan,
    "generate": _generate,
    "cancel": _cancel,
    "list": _list,
    "memory": _memory,
    "encoder_view": _encoder_view,
    "schema": _schema,
    "ping": _ping,
    "shutdown": _ping,
}
"""The methods by name; `initialize`, which is first, is the worker's own."""
