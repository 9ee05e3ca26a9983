"""A job as JSON: one form for messages, files, queues and the studio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ipa.errors import RequestError, shown
from ipa.pipeline.documents.arguments import check_names, read_arguments
from ipa.pipeline.documents.pictures import Pictures

from .needs import KINDS, MODEL_OPTIONS, Needs

VERSION = 1
"""The version of the form; a document without one is of this."""

_OF_A_JOB = frozenset({"ipa", "id", "request", "priority", "deadline_s"})


@dataclass(frozen=True, kw_only=True, slots=True)
class JobDocument:
    """A job that was read from JSON.

    Attributes:
        needs: What it needs loaded.
        arguments: Those of the call, pictures opened.
        job_id: Its name; None where it has none.
        priority: Higher ones first.
        deadline_s: Seconds after which it fails; None is never.
    """

    needs: Needs
    arguments: Mapping[str, Any]
    job_id: str | None = None
    priority: int = 0
    deadline_s: float | None = None


def read_job(document: object, pictures: Pictures) -> JobDocument:
    """Read a job: what it needs, and under "request" the arguments of the call.

    {"ipa": 1, "model": "demo", "adapters": ["demo:base"], "request": {"prompt": "a star"}}

    Raises:
        RequestError: It is of another version, or asks for what there is not.
    """
    if not isinstance(document, Mapping):
        raise RequestError("a job is an object", found=shown(document))
    version = document.get("ipa", VERSION)
    if version != VERSION:
        raise RequestError(
            "the job is of a version that is not known here",
            found=shown(version),
            remedy=f'write "ipa": {VERSION}, or bring ipa-mlx up to date',
        )
    check_names("a job", document, {*_OF_A_JOB, "model", *KINDS, *MODEL_OPTIONS})
    request = document.get("request", {})
    if not isinstance(request, Mapping):
        raise RequestError("request of a job is an object", found=shown(request))
    needs = {name: value for name, value in document.items() if name not in _OF_A_JOB}
    return JobDocument(
        needs=Needs.of(needs),
        arguments=read_arguments(request, pictures),
        job_id=document.get("id"),
        priority=document.get("priority", 0),
        deadline_s=document.get("deadline_s"),
    )
