"""A request as JSON becomes the arguments of a call."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from ipa.errors import RequestError
from ipa.request import control, image_prompt
from ipa.request.reads import Read, Reads
from ipa.request.request import READS, Request

from .pictures import Pictures

_DEFAULTS = {"strength": Request().strength}
_OBJECTS: Mapping[str, tuple[Callable[..., Any], Reads]] = {
    "image_prompts": (image_prompt.ImagePrompt, image_prompt.READS),
    "controls": (control.Control, control.READS),
}
"""The fields that are lists of objects: what these are, and how theirs are read."""


def read_arguments(
    given: Mapping[str, Any], pictures: Pictures, where: str = "the request"
) -> dict[str, Any]:
    """The arguments of a call from an object of JSON, its pictures opened.

    Raises:
        RequestError: It asks for what there is not.
    """
    check_names(where, given, readable_names())
    for name, (kind, reads) in _OBJECTS.items():
        for entry in _objects(name, given.get(name) or []):
            check_names(name, entry, _readable(kind, reads))
    return build_objects(_opened(given, READS, pictures))


def build_objects(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments whose image prompts and controls are built from dicts, whatever JSON can hold."""
    built = _DEFAULTS | dict(arguments)
    for name, (kind, _) in _OBJECTS.items():
        built[name] = [kind(entry.get("image"), **_rest(entry)) for entry in built.get(name, ())]
    return built


def readable_names() -> frozenset[str]:
    """The names of the arguments that JSON can hold."""
    return _readable(Request, READS)


def check_names(where: str, arguments: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise RequestError for an argument that is not among these names."""
    for name in arguments:
        if name not in names:
            near = difflib.get_close_matches(name, list(names), 1)
            raise RequestError(
                f"{where} has an argument that there is not",
                found=repr(name)[:80],
                remedy=f"did you mean {near[0]}?" if near else "see ipa.request.request.Request",
            )


def _readable(kind: Any, reads: Reads) -> frozenset[str]:
    """The names of the fields that a file can hold."""
    names = (field.name for field in fields(kind))
    return frozenset(name for name in names if reads.get(name) is not Read.NEVER)


def _opened(arguments: Mapping[str, Any], reads: Reads, pictures: Pictures) -> dict[str, Any]:
    """A request with every picture opened, in image prompts and controls too."""
    return {
        name: _field(name, value, reads.get(name), pictures) for name, value in arguments.items()
    }


def _field(name: str, value: Any, read: Read | None, pictures: Pictures) -> Any:
    if read is Read.OBJECTS:
        return [_opened(entry, _OBJECTS[name][1], pictures) for entry in _objects(name, value)]
    if read is None or value is None:
        return value
    if read is Read.PICTURES_OR_NAME and isinstance(value, str) and not pictures.is_name(value):
        return value
    return _each(value, pictures)


def _each(value: Any, pictures: Pictures) -> Any:
    if isinstance(value, list):
        return [None if entry is None else pictures.open(entry) for entry in value]
    return pictures.open(value)


def _objects(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise RequestError(
            f"{name} of a request is a list of objects",
            found=repr(value)[:80],
            remedy=f'such as "{name}": [{{"image": "a.png"}}]',
        )
    return value


def _rest(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "image"}
