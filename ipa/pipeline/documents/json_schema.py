"""The JSON Schema of a request, made from its dataclasses: names, types, defaults and words."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, ForwardRef, Literal, Union, get_args, get_origin

from PIL import Image

from ipa.request import control, image_prompt, request
from ipa.request.control import Control
from ipa.request.embeds import ImageEmbeds
from ipa.request.image_prompt import ImagePrompt
from ipa.request.reads import Read, Reads
from ipa.request.request import Request, RequestArguments

DIALECT = "https://json-schema.org/draft/2020-12/schema"

PICTURE: Mapping[str, Any] = {
    "description": "A picture: a path, the sha256 of its pixels if it was put before, or its file.",
    "anyOf": [
        {"type": "string"},
        *(
            {
                "type": "object",
                "properties": {key: {"type": "string"}},
                "required": [key],
            }
            for key in ("path", "sha256", "data")
        ),
    ],
}
_PICTURE = {"$ref": "#/$defs/Picture"}
_PICTURES = {
    "anyOf": [
        _PICTURE,
        {"type": "array", "items": {"anyOf": [_PICTURE, {"type": "null"}]}},
        {"type": "null"},
    ]
}
_NAMED: Mapping[str, tuple[Any, Reads]] = {
    "ImagePrompt": (ImagePrompt, image_prompt.READS),
    "Control": (Control, control.READS),
}
_READ: Mapping[Read | None, dict[str, Any]] = {
    Read.PICTURES: _PICTURES,
    Read.PICTURES_OR_NAME: {"anyOf": [*_PICTURES["anyOf"], {"type": "string"}]},
}
_PLAIN: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    Any: {},
}
# Values that JSON does not hold: they fall out of unions.
_NOT_JSON = (Image.Image, ImageEmbeds)


def request_schema() -> dict[str, Any]:
    """The JSON Schema of `read_arguments`' object, as of draft 2020-12."""
    defined = {name: _object(kind, reads) for name, (kind, reads) in _NAMED.items()}
    return {
        "$schema": DIALECT,
        "title": "Request",
        **_object(Request, request.READS),
        "$defs": {"Picture": dict(PICTURE), **defined},
    }


def _object(kind: Any, reads: Reads) -> dict[str, Any]:
    words = _attribute_words(kind)
    shown = [field for field in fields(kind) if reads.get(field.name) is not Read.NEVER]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            field.name: _property(field, kind, reads) | {"description": words[field.name]}
            for field in shown
        },
    }


def _property(field: Field[Any], kind: Any, reads: Reads) -> dict[str, Any]:
    default = {} if field.default in {MISSING, ()} else {"default": field.default}
    name = next((key for key, (value, _) in _NAMED.items() if field.name == _LISTS[key]), None)
    if reads.get(field.name) is Read.OBJECTS and name is not None:
        return {"type": "array", "items": {"$ref": f"#/$defs/{name}"}}
    if reads.get(field.name) in _READ:
        return dict(_READ[reads[field.name]])
    # Texts may be lists in a call, which one request does not say.
    called = _CALLED.get(field.name) if kind is Request else None
    return _of_hint(field.type if called is None else called, kind) | default


_CALLED: Mapping[str, Any] = {"prompt": str | Sequence[str], **RequestArguments.__annotations__}
_LISTS = {"ImagePrompt": "image_prompts", "Control": "controls"}


def _of_hint(hint: Any, kind: Any) -> dict[str, Any]:
    """The schema of a type."""
    if isinstance(hint, (str, ForwardRef)):
        text = hint if isinstance(hint, str) else hint.__forward_arg__
        return _of_hint(eval(text, vars(inspect.getmodule(kind))), kind)
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _any_of([_of_hint(one, kind) for one in inside if _is_json(one)])
    if origin is Literal:
        return {"enum": list(inside)}
    if origin is tuple and inside[-1] is not ...:
        items = [_of_hint(one, kind) for one in inside]
        return {
            "type": "array",
            "prefixItems": items,
            "minItems": len(items),
            "maxItems": len(items),
        }
    if origin in (Sequence, tuple, list):
        return {"type": "array", "items": _of_hint(inside[0], kind)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _of_hint(inside[1], kind)}
    raise TypeError(f"{kind.__name__} has a field that JSON Schema cannot say: {hint!r}")


def _any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    flat = [one for entry in schemas for one in entry.get("anyOf", [entry])]
    unique = [one for number, one in enumerate(flat) if one not in flat[:number]]
    return unique[0] if len(unique) == 1 else {"anyOf": unique}


def _is_json(hint: Any) -> bool:
    is_callable = get_origin(hint) is Callable
    return hint not in _NOT_JSON and not is_callable


def _attribute_words(kind: Any) -> dict[str, str]:
    """What a docstring says of each attribute."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    return dict(_entries(text))


def _entries(text: str) -> Iterator[tuple[str, str]]:
    for entry in re.split(r"\n(?=    \w+: )", "\n" + text):
        name, colon, words = entry.strip().partition(": ")
        if colon:
            yield name, " ".join(words.split())
