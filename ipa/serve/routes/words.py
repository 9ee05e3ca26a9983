"""What the API's description says of bodies and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa.pipeline.documents.json_schema import request_schema

from ..dialects.a1111 import IMG2IMG, OPTIONS, TXT2IMG
from ..dialects.native import JOB
from ..dialects.openai import EDIT, GENERATION
from ..fields import schema_of

_PICTURE = {
    "description": "A picture: its file in base64, or the sha256 of one that was put before. "
    "Addresses are never fetched.",
    "anyOf": [
        {"type": "string"},
        *(
            {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
            for key in ("sha256", "data")
        ),
    ],
}
_BINARY = {"type": "string", "format": "binary"}


def body_of(name: str, media: str = "application/json") -> dict[str, Any]:
    """The description of a route's body, by the name of its schema."""
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"requestBody": {"required": True, "content": {media: {"schema": schema}}}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of a route's refusals."""
    schema = {"$ref": "#/components/schemas/Refusal"}
    told: dict[int | str, dict[str, Any]] = {
        status: {"description": "Refused.", "content": {"application/json": {"schema": schema}}}
        for status in statuses
    }
    return told


def schemas() -> dict[str, Any]:
    """All schemas that bodies and refusals name."""
    request = request_schema()
    defined = request.pop("$defs") | {"Picture": _PICTURE}
    request.pop("$schema")
    job = schema_of(JOB)
    job["properties"]["request"] = {
        "anyOf": [{"$ref": "#/components/schemas/Request"}, {"type": "null"}]
    }
    job["additionalProperties"] = False
    edit = schema_of(EDIT, ("prompt",))
    edit["properties"] |= {
        "image": _BINARY,
        "image[]": {"type": "array", "items": _BINARY},
        "mask": _BINARY,
    }
    made = {
        **defined,
        "Request": request,
        "Job": job,
        "EncoderView": {
            "type": "object",
            "properties": {
                "model": {"type": "string"},
                "image_prompt": {"$ref": "#/components/schemas/ImagePrompt"},
            },
            "required": ["image_prompt"],
        },
        "Generation": schema_of(GENERATION, ("prompt",)),
        "Edit": edit,
        "Txt2Img": schema_of(TXT2IMG),
        "Img2Img": schema_of(IMG2IMG, ("init_images",)),
        "Options": schema_of(OPTIONS),
        "PngInfo": {
            "type": "object",
            "properties": {"image": {"type": "string"}},
            "required": ["image"],
        },
        "Refusal": {"type": "object"},
    }
    told: dict[str, Any] = _pointed(made)
    return told


def _pointed(value: Any) -> Any:
    """A schema whose pointers are into the API's description."""
    if isinstance(value, Mapping):
        return {
            key: one.replace("#/$defs/", "#/components/schemas/")
            if key == "$ref"
            else _pointed(one)
            for key, one in value.items()
        }
    return [_pointed(one) for one in value] if isinstance(value, list) else value
