"""A request in a file: JSON that a person wrote, or what a picture of ours says of its own."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from ipa.errors import RequestError
from ipa.prepare.images.pictures import open_image
from ipa.request import control, image_prompt
from ipa.request.reads import Read, Reads
from ipa.request.request import READS, Request

from .picture_store import PictureStore
from .png_text import png_text
from .replay import from_description, is_description

SOURCES = ("adapters", "controlnets", "loras", "textual_inversions")
"""Keys of what is to be loaded, as of the options --adapter and so on."""

_MAX_BYTES = 16 << 20
_DEFAULTS = {"strength": Request().strength}
_OBJECTS: Mapping[str, tuple[Callable[..., Any], Reads]] = {
    "image_prompts": (image_prompt.ImagePrompt, image_prompt.READS),
    "controls": (control.Control, control.READS),
}
"""The fields that are lists of objects: what these are, and how theirs are read."""


@dataclass(frozen=True, slots=True)
class RequestFile:
    """The contents of a request file.

    Attributes:
        arguments: Those of a call, pictures opened.
        sources: What to load first, by `SOURCES`.
        described: The description that it was made from; None where a person wrote it.
    """

    arguments: Mapping[str, Any]
    sources: Mapping[str, tuple[str, ...]]
    described: Mapping[str, Any] | None = None


def read_request(path: Path, pictures: Iterable[Path] = ()) -> RequestFile:
    """Read a request from a file.

    Args:
        path: JSON with the arguments of a call: pictures as paths beside the file, image prompts
            and controls as objects, and lists of `SOURCES`. Or a PNG of `generate`, or what its
            --json printed: both know pictures by their hashes alone.
        pictures: Files and folders in which such pictures are looked for.

    Raises:
        RequestError: It cannot be read, or asks for what there is not.
    """
    given = _read(path)
    if is_description(given):
        arguments = from_description(given, PictureStore.of(pictures))
        return RequestFile(_built(arguments), {}, given)
    _check_names(path.name, given, _readable(Request, READS) | set(SOURCES))
    asked = {name: value for name, value in given.items() if name not in SOURCES}
    arguments = _opened(asked, READS, path.parent)
    sources = {name: _texts(name, given.get(name, [])) for name in SOURCES}
    return RequestFile(_built(arguments), sources)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix.lower() == ".png":
            text = png_text(path)
            if text is None:
                raise RequestError(
                    f"{path} says nothing of its request",
                    remedy="a PNG that ipa-mlx generate wrote, or a JSON file",
                )
        else:
            if path.stat().st_size > _MAX_BYTES:
                raise RequestError(f"{path} is no request", found=f"over {_MAX_BYTES} bytes")
            text = path.read_text("utf-8")
        contents = json.loads(text)
    except (OSError, ValueError, RecursionError, Image.DecompressionBombError) as error:
        raise RequestError(
            f"the request {path} cannot be read",
            found=str(error)[:200],
            remedy='a JSON object such as {"prompt": "a dog", "seed": 1}, or a PNG of ipa-mlx',
        ) from error
    found = contents.get("request", contents) if isinstance(contents, dict) else contents
    if not isinstance(found, dict):
        raise RequestError(f"{path} is no request", found=type(found).__name__)
    return found


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise RequestError(
            f"{name} of a request is a list of texts",
            found=repr(value)[:80],
            remedy=f'such as "{name}": ["NAME=SOURCE"]',
        )
    return tuple(value)


def _check_names(where: str, arguments: Mapping[str, Any], names: Iterable[str]) -> None:
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


def _opened(arguments: Mapping[str, Any], reads: Reads, folder: Path) -> dict[str, Any]:
    """A request with every path of a picture opened, in image prompts and controls too."""
    return {name: _field(name, value, reads.get(name), folder) for name, value in arguments.items()}


def _field(name: str, value: Any, read: Read | None, folder: Path) -> Any:
    if read is Read.OBJECTS:
        return [_opened(entry, _OBJECTS[name][1], folder) for entry in _objects(name, value)]
    if read is None or value is None:
        return value
    is_picture = isinstance(value, list) or (isinstance(value, str) and _is_file(value, folder))
    return _each(value, folder) if read is Read.PICTURES or is_picture else value


def _is_file(text: str, folder: Path) -> bool:
    """Whether a negative picture is a file; else it is the name of a noise."""
    return (folder / text).is_file() or Path(text).suffix != ""


def _each(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [None if entry is None else _each(entry, folder) for entry in value]
    if not isinstance(value, str):
        raise RequestError("a picture of a request is a path", found=repr(value)[:80])
    return open_image(folder / value)


def _objects(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise RequestError(
            f"{name} of a request is a list of objects",
            found=repr(value)[:80],
            remedy=f'such as "{name}": [{{"image": "a.png"}}]',
        )
    return value


def _built(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A request with image prompts and controls built from dicts."""
    built = _DEFAULTS | dict(arguments)
    for name, (kind, reads) in _OBJECTS.items():
        for entry in built.get(name, ()):
            _check_names(name, entry, _readable(kind, reads))
        built[name] = [kind(entry.get("image"), **_rest(entry)) for entry in built.get(name, ())]
    return built


def _rest(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "image"}
