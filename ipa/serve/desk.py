"""The desk of a server: its engine, what it offers, pictures that were put, and jobs by id."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ipa.engine.engine import Engine
from ipa.engine.job import ENDED, Job
from ipa.pipeline.documents.pictures import PictureShelf
from ipa.request.influence import Influence
from ipa.request.result import Progress, Result

from .asked import Asked, field_names, make_job
from .faults import Fault, fault_of
from .limits import Limits
from .offers import Offers

_LOG = logging.getLogger("ipa.serve")


def random_id() -> str:
    """An id that nobody guesses: 128 random bits in hexadecimal."""
    return f"{secrets.randbits(128):032x}"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a result.

    Attributes:
        images: The pictures by their ids.
        influence: Where image prompts acted, if it was asked for.
        info: `Result.info` without this machine's paths.
    """

    images: tuple[tuple[str, Image.Image], ...] = ()
    influence: Influence | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Result, model: str) -> Kept:
        """What is kept of a result of an offered model; arrays are not pictures."""
        images = result.images if isinstance(result.images, list) else []
        named = tuple((random_id(), image) for image in images)
        return cls(named, result.influence, _public(result.info, model))


_NOTHING = Kept()


class Record:
    """A job that a client asked for: how it stands, and what came of it."""

    def __init__(self, asked: Asked, dialect: str, model: str) -> None:
        self.id, self.dialect, self.warnings = random_id(), dialect, asked.warnings
        self.created, self.names = time.time(), field_names(asked.names)
        self.model = model
        self.last: Progress | None = None
        self.preview: Image.Image | None = None
        self._job: Job[Result] | None = None
        self._lock = threading.Lock()
        self._kept: Kept | None = None

    @property
    def job(self) -> Job[Result]:
        """The engine's job."""
        if self._job is None:
            raise RuntimeError("the job was not submitted yet")
        return self._job

    @job.setter
    def job(self, job: Job[Result]) -> None:
        self._job = job

    @property
    def size(self) -> int:
        """The bytes of its pictures and maps, about."""
        kept = self.kept
        pixels = sum(image.width * image.height * 3 for _, image in kept.images)
        maps = () if kept.influence is None else kept.influence.shares
        return pixels + sum(share.nbytes for share in maps)

    def tell(self, job: Job[Result], event: Progress) -> None:
        """Take note of an event; the engine's thread."""
        self.last = event
        self.preview = event.preview or self.preview

    @property
    def kept(self) -> Kept:
        """What came of it; empty as long as nothing did.

        Asked for at any time, not told at the end: who waits for a job may be awake before those
        that are told of it.
        """
        if self.job.state != "completed":
            return _NOTHING
        with self._lock:
            if self._kept is None:
                self._kept = Kept.of(self.job.result(), self.model)
            return self._kept

    def describe(self) -> dict[str, Any]:
        """How it stands, JSON-able."""
        job, state = self.job, self.job.state  # once: it may end meanwhile
        kept = self.kept
        told: dict[str, Any] = {"id": self.id, "state": state, "created": self.created}
        told["warnings"] = [*self.warnings, *kept.info.get("warnings", ())]
        if self.last is not None:
            told["progress"] = progress_of(self.last)
        error = job.exception() if state in ENDED else None
        if error is not None:
            told |= fault_of(error, self.names).body("/api/")
        if state == "completed":
            told["images"] = [
                {"id": key, "url": f"/api/v1/results/{key}"} for key, _ in kept.images
            ]
            told["info"] = kept.info
            told["has_influence"] = kept.influence is not None
        return told


def _public(info: Mapping[str, Any], model: str) -> dict[str, Any]:
    """A run's description without this machine's paths: the model by its offered name."""
    told = {**info, "model": model}
    return told | ({"blas": Path(told["blas"]).name} if told.get("blas") else {})


def progress_of(event: Progress) -> dict[str, Any]:
    """An event, JSON-able, without its pictures."""
    told = {"stage": event.stage, "step": event.step, "total": event.total}
    return {**told, "unit": event.unit, "eta_s": event.eta_s}


class Desk:
    """The desk of a server. Safe from any thread.

    Args:
        offers: What may be named.
        limits: How much may be asked for.
        engine: By default one of its own, which `close` closes.
    """

    def __init__(
        self, offers: Offers, limits: Limits | None = None, engine: Engine | None = None
    ) -> None:
        self.offers, self.limits = offers, limits or Limits()
        self.engine = engine or Engine(queue=self.limits.queue)
        self.shelf = PictureShelf()
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._lock = threading.Lock()

    def submit(self, asked: Asked, dialect: str = "native") -> Record:
        """Put a job in the queue.

        Raises:
            Fault: It asks for what cannot be, or the queue is full.
        """
        document = make_job(asked, self.offers, self.shelf, self.limits)
        record = Record(asked, dialect, self.offers.model(asked.model))
        try:
            record.job = self.engine.submit(
                document.needs,
                document.arguments,
                priority=document.priority,
                deadline_s=document.deadline_s,
                on_event=record.tell,
                job_id=record.id,
            )
        except Exception as error:
            raise fault_of(error, record.names) from error
        with self._lock:
            self._records[record.id] = record
        record.job.add_done_callback(lambda _: self._trim())
        return record

    def load(self, model: str) -> Job[dict[str, Any]]:
        """Load an offered model with the first adapter, before it is asked for."""
        first = list(self.offers.parts["adapters"].values())[:1]
        return self.engine.load(self.offers.needs(model, {"adapters": first}))

    def record(self, job_id: str) -> Record:
        """A job by its id. Raises Fault if there is none."""
        with self._lock:
            record = self._records.get(job_id)
        if record is None:
            raise Fault(404, "there is no such job", remedy="the oldest are forgotten")
        return record

    def image(self, image_id: str) -> tuple[Record, Image.Image]:
        """A finished picture by its id, with its job. Raises Fault if there is none."""
        for record in self.records():
            for key, image in record.kept.images:
                if secrets.compare_digest(key.encode(), image_id.encode()):
                    return record, image
        raise Fault(404, "there is no such picture", remedy="the oldest are forgotten")

    def records(self) -> list[Record]:
        """All jobs that are known, the oldest first."""
        with self._lock:
            return list(self._records.values())

    def running(self) -> Record | None:
        """The job that runs now, if a client asked for it."""
        name = self.engine.state()["running"]
        with self._lock:
            return self._records.get(name) if name else None

    def close(self) -> None:
        """Cancel what there is to do, and forget every model."""
        self.engine.close(cancel=True)

    def _trim(self) -> None:
        """Forget the oldest jobs that have ended, where they are too many or too large."""
        with self._lock:
            ended = [record for record in self._records.values() if record.job.done()]
            total = sum(record.size for record in ended)
            for record in ended[:-1]:
                few = len(ended) <= self.limits.kept_jobs
                if few and total <= self.limits.kept_bytes:
                    return
                ended.remove(record)
                total -= record.size
                del self._records[record.id]
                _LOG.debug("job %s is forgotten", record.id)


def state_of(desk: Desk) -> Mapping[str, Any]:
    """What waits, runs and is loaded, with offered names instead of sources."""
    told = desk.engine.state()
    names = {needs.model: name for name, needs in desk.offers.models.items()}
    loaded = [one | {"model": names.get(one["model"], "")} for one in told["loaded"]]
    return {**told, "loaded": loaded}
