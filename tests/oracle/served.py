"""A server on a free port for tests: over the demo model, or over an engine of paper."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from ipa import Engine, Needs, demo
from ipa.errors import Cancelled
from ipa.memory.plan import MemoryPlan
from ipa.request.result import Progress, Result
from ipa.serve.desk import Desk
from ipa.serve.limits import Limits
from ipa.serve.offers import Offers
from ipa.serve.server import Server

OFFERS = {
    "adapters": ["demo:base", "plus_sd15=demo:plus"],
    "controlnets": ["demo:edges"],
}


class PaperEngine(Engine):
    """An engine that makes grey pictures without a model, in as many steps as it is asked for.

    While `gate` is closed, every job waits in its first step.
    """

    def __init__(self, queue: int = 16) -> None:
        super().__init__(queue=queue)
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.asked: deque[dict[str, Any]] = deque(maxlen=20)

    def submit(self, needs: Any = "demo", arguments: Any = None, **options: Any) -> Any:
        call = dict(arguments or {})
        self.asked.append({"needs": Needs.of(needs), **call})

        def work(_: Any, job: Any) -> Result:
            self.begun.release()
            while not self.gate.wait(0.02):
                if job.should_stop():
                    raise Cancelled("the job was cancelled")
            steps = call.get("num_inference_steps") or 2
            size = (call.get("width") or 8, call.get("height") or 8)
            grey = Image.new("RGB", size, (128, 128, 128))
            for step in range(1, steps + 1):
                preview = grey.resize((2, 2)) if call.get("preview") else None
                job.tell(Progress(stage="denoise", step=step, total=steps, preview=preview))
            names = ("prompt", "negative_prompt", "seed", "num_inference_steps", "scheduler")
            request = {name: call.get(name) for name in names} | {"seed": call.get("seed", 0)}
            request |= {"width": size[0], "height": size[1]}
            info = {"request": request, "model": "/secret/place", "blas": "/secret/b.so"}
            images = [grey.copy() for _ in range(call.get("num_images", 1))]
            return Result(images=images, latents=np.zeros((1, 4, 1, 1), np.float32), info=info)

        return self._put(None, work, options)

    def call(self, needs: Any, function: Any, **options: Any) -> Any:
        return self._put(None, lambda _, job: function(PaperPipeline()), options)

    def load(self, needs: Any, **options: Any) -> Any:
        return self._put(None, lambda _, job: {}, options)


class PaperPipeline:
    """What a pipeline tells without making pictures."""

    def encoder_views(self, prompt: Any) -> list[Image.Image]:
        return [Image.new("RGB", (8, 8))]

    def plan(self, **arguments: Any) -> MemoryPlan:
        return MemoryPlan(stages=())


@dataclass(frozen=True)
class Answer:
    """An answer of HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body as JSON."""
        return json.loads(self.body)


def ask(
    server: Server,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send a request over a connection of its own, with exactly these headers beside Host."""
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    raw = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    given = {"Content-Type": "application/json"} if isinstance(body, (dict, list)) else {}
    try:
        chosen = method or ("GET" if body is None else "POST")
        line.request(chosen, path, raw, given | dict(headers or {}))
        got = line.getresponse()
        return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
    finally:
        line.close()


@contextmanager
def paper_server(
    limits: Limits | None = None, **options: Any
) -> Iterator[tuple[Server, PaperEngine]]:
    """A server that needs no model, and its engine."""
    chosen = limits or Limits()
    engine = PaperEngine(chosen.queue)
    desk = Desk(Offers.of(["demo", "second=demo"], OFFERS), chosen, engine)
    with Server(desk, port=0, **options) as server:
        try:
            yield server, engine
        finally:
            engine.gate.set()


def base64_of(image: Image.Image) -> str:
    """A picture as PNG in base64."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture_of(data: str | bytes) -> Image.Image:
    """A picture of base64, or of a file."""
    file = base64.b64decode(data, validate=True) if isinstance(data, str) else data
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def reference(number: int = 3) -> Image.Image:
    """One of the demo's references."""
    return Image.open(demo.references()[number]).convert("RGB")


def border(image: Image.Image) -> np.ndarray:
    """Median RGB of the three outer pixels, in [0, 1]: the background, which references tell."""
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    inside = np.zeros(pixels.shape[:2], bool)
    inside[3:-3, 3:-3] = True
    return np.median(pixels[~inside], axis=0)


def host(url: str) -> str:
    """The host and port of an address."""
    return urlsplit(url).netloc
