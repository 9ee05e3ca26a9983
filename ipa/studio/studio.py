"""The studio behind its page: jobs whose pictures are kept, and how all of it stands."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from PIL import Image

from ipa.engine.job import ENDED
from ipa.errors import IpaError, RequestError, shown
from ipa.pipeline.documents.one_picture import of_picture
from ipa.serve.desk import Desk, Record, progress_of
from ipa.serve.dialects.native import read_job
from ipa.serve.faults import Fault, fault_of
from ipa.serve.images import encoded

from .folder import Folder
from .pictures import Pictures

_LOG = logging.getLogger("ipa.serve")
STUDIO = "studio"
"""The key in a picture's text under which the page's form and the job stand."""

_SHOWN = 40  # jobs that a page is told of
_LONGEST_FORM = 256 << 10


class Studio:
    """A studio over a desk. Safe from any thread.

    Args:
        desk: Where its jobs go; the caller's to close.
        folder: Where pictures are kept.
    """

    def __init__(self, desk: Desk, folder: Folder) -> None:
        self.desk, self.folder = desk, folder
        self.pictures = Pictures(desk, folder)
        self._saved: dict[str, list[str]] = {}
        self._faults: dict[str, str] = {}
        self._changes = 0

    def submit(self, body: Mapping[str, Any]) -> Record:
        """Put a page's job in the queue; its pictures are kept when it has ended.

        Args:
            body: {"job": as for /api/v1/jobs, "form": the page's own words for it}.

        Raises:
            Fault: It asks for what cannot be.
        """
        job, form = body.get("job"), body.get("form")
        if not isinstance(job, Mapping):
            raise Fault(422, "job is an object", field="job", found=shown(job))
        if form is not None and len(json.dumps(form)) > _LONGEST_FORM:
            raise Fault(422, "the form is too long", field="form")
        asked = read_job(job)
        record = self.desk.submit(asked, STUDIO)
        told = {"job": dict(job), "form": form, "id": record.id}
        record.job.add_done_callback(lambda _: self._keep(record, told))
        return record

    def changed(self) -> None:
        """Note that the folder has changed, so that every page looks again."""
        self._changes += 1

    def state(self) -> dict[str, Any]:
        """How the queue stands, JSON-able: what every page shows alike."""
        records = self.desk.records()[-_SHOWN:]
        loaded = [one["model"] for one in self.desk.engine.state()["loaded"]]
        return {
            "jobs": [self._job(record) for record in records],
            "changes": self._changes,
            "loaded": len(loaded),
        }

    def _job(self, record: Record) -> dict[str, Any]:
        state, last = record.job.state, record.last
        told: dict[str, Any] = {"id": record.id, "state": state, "created": record.created}
        told |= {"model": record.model, "saved": self._saved.get(record.id, [])}
        if last is not None and state not in ENDED:
            told["progress"] = progress_of(last)
        if record.preview is not None and last is not None and state not in ENDED:
            told["preview"] = f"/api/v1/jobs/{record.id}/preview?step={last.step}"
        error = record.job.exception() if state in ENDED else None
        if error is not None and state == "failed":
            told["error"] = fault_of(error, record.names).sentence
        if record.id in self._faults:
            told["error"] = self._faults[record.id]
        if state == "completed":
            told["warnings"] = [*record.warnings, *record.kept.info.get("warnings", ())]
            told["has_influence"] = record.kept.influence is not None
        return told

    def _keep(self, record: Record, told: Mapping[str, Any]) -> None:
        """Write a finished job's pictures; what fails is told to the page, and they stay here."""
        if record.job.state != "completed":
            return
        try:
            kept = record.kept
            names = [
                self.folder.add(self._file(image, kept.info, number, told))
                for number, (_, image) in enumerate(kept.images)
            ]
            self._saved[record.id] = names
        except IpaError as error:
            self._faults[record.id] = f"The picture could not be kept. {fault_of(error).sentence}"
            _LOG.error("a picture of the studio could not be kept: %s", error)
        self.changed()

    def _file(
        self, image: Image.Image, info: Mapping[str, Any], number: int, told: Mapping[str, Any]
    ) -> bytes:
        """A picture's PNG: what it says makes it alone again, whatever it was made beside."""
        request = of_picture(info["request"], number)
        job = {**told["job"], "request": {**told["job"].get("request", {}), "num_images": 1}}
        if "picture" in request:
            raise RequestError("a picture of a batch cannot be told apart from the others")
        job["request"]["seed"] = request["seed"]
        own = {**told, "job": job, "number": number}
        return encoded(image, "png", {**info, "request": request, STUDIO: own})
