"""Our own jobs: those of `ipa.engine.document`, but that names are offered ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa.checks import is_finite
from ipa.engine.document import VERSION
from ipa.engine.needs import KINDS
from ipa.errors import shown

from ..asked import Asked
from ..faults import Fault
from ..fields import Field, read_fields

_PRIORITIES = 100

JOB: Mapping[str, Field] = {
    "ipa": Field(kind="whole", about="The version of this form.", low=VERSION, high=VERSION),
    "model": Field(kind="text", about="An offered model; absent, the first.", longest=200),
    **{
        kind: Field(
            kind="list",
            about="Offered names, or objects of name and scale, beside those that the request "
            "names itself.",
            longest=16,
        )
        for kind in KINDS
    },
    "request": Field(kind="object", about="The arguments of a call."),
    "priority": Field(
        kind="whole", about="Higher ones come first.", low=-_PRIORITIES, high=_PRIORITIES
    ),
    "deadline_s": Field(
        kind="number", about="Seconds after which it fails.", low=0.001, high=1 << 31
    ),
}
"""The fields of a job."""


def read_job(body: Mapping[str, Any]) -> Asked:
    """A job's body as what is asked for. Raises Fault."""
    for name in body:
        if name not in JOB:
            raise Fault(
                422,
                "a job has no such field",
                field=name,
                found=shown(name),
                remedy=f"known: {', '.join(JOB)}",
            )
    given = read_fields(body, JOB)
    parts = {kind: dict(_part(kind, one) for one in given.get(kind, ())) for kind in KINDS}
    return Asked(
        request=given.get("request", {}),
        model=given.get("model"),
        parts=parts,
        priority=given.get("priority", 0),
        deadline_s=given.get("deadline_s"),
    )


def _part(kind: str, entry: Any) -> tuple[str, float]:
    given = {"name": entry} if isinstance(entry, str) else entry
    is_known = isinstance(given, Mapping) and given.keys() <= {"name", "scale"}
    if not is_known or not isinstance(given.get("name"), str):
        raise Fault(
            422,
            f"an entry of {kind} is an offered name",
            field=kind,
            found=shown(entry),
            remedy='such as "NAME", or {"name": "NAME", "scale": 0.7}',
        )
    scale = given.get("scale", 1.0)
    if not is_finite(scale):
        raise Fault(422, f"scale in {kind} must be a number", field=kind, found=shown(scale))
    return given["name"], float(scale)
