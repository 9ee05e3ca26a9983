"""Bodies of requests: JSON and forms, read within the limits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from ipa.errors import shown

from .faults import Fault
from .limits import Limits


@dataclass(frozen=True, slots=True)
class Form:
    """A form: its texts by name, and its files as (name, bytes), in order."""

    texts: dict[str, str]
    files: list[tuple[str, bytes]]


async def json_body(request: Request) -> dict[str, Any]:
    """The body as an object of JSON.

    A browser cannot send this type to another site without asking first.

    Raises:
        Fault: It is of another type, no JSON, or no object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Fault(
            415,
            "the body must be JSON",
            field="Content-Type",
            found=kind[:80] or "none",
            remedy="Content-Type: application/json",
        )
    try:
        body = json.loads(await request.body(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Fault(400, "the body is no JSON", found=str(error)[:80]) from error
    if not isinstance(body, dict):
        raise Fault(422, "the body must be an object", found=shown(body))
    return body


async def form_body(request: Request, limits: Limits) -> Form:
    """The body as a form. Raises Fault."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Fault(
            415,
            "the body must be a form",
            field="Content-Type",
            found=kind[:80] or "none",
            remedy="Content-Type: multipart/form-data",
        )
    try:
        async with request.form(
            max_files=limits.parts, max_fields=limits.parts, max_part_size=limits.body_bytes
        ) as form:
            texts: dict[str, str] = {}
            files: list[tuple[str, bytes]] = []
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    files.append((name, await value.read()))
                else:
                    texts[name] = value
    except (MultiPartException, HTTPException, KeyError, ValueError) as error:
        raise Fault(
            400,
            "the form cannot be read",
            found=str(getattr(error, "detail", error))[:80],
            remedy=f"multipart/form-data with a boundary and at most {limits.parts} parts",
        ) from error
    return Form(texts, files)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
