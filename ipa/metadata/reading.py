"""What a picture's file says of how it was made: in our own words, or another program's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipa.errors import RequestError

from .a1111 import KEY as PARAMETERS
from .container import Contents, read_contents
from .dialects.a1111 import read_a1111
from .dialects.comfyui import read_comfyui
from .dialects.foreign import Foreign, as_object
from .dialects.simple import read_drawthings, read_fooocus, read_invokeai, read_swarmui
from .xmp import REQUEST, read_packet

METADATA_KEY = "ipa-mlx"
"""The PNG text chunk that holds `Result.info` as JSON, and the command that was typed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a picture's file says.

    Attributes:
        contents: The file's texts.
        ours: What a picture of ours says, as `Result.info` and what the command added; else None.
        foreign: What another program says, the most telling first; also of the text that we write
            for A1111.
        marks: The properties of its XMP.
        unread: What is there and is damaged, or no program's that is known here, in words.
    """

    contents: Contents
    ours: Mapping[str, Any] | None = None
    foreign: tuple[Foreign, ...] = ()
    marks: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def read_told(source: Path | bytes, what: str = "") -> Told:
    """Read what a picture says of itself; nothing of its pixels is decoded.

    Raises:
        RequestError: It cannot be read, or is neither PNG, JPEG nor WebP; or what stands under our
            own key is damaged.
    """
    contents = read_contents(source, what)
    name = what or (str(source) if isinstance(source, Path) else "the picture")
    unread: list[str] = []
    marks: dict[str, str] = {}
    if contents.xmp is not None:
        try:
            marks = read_packet(contents.xmp)
        except RequestError as error:
            unread.append(str(error))
    text = contents.texts.get(METADATA_KEY, marks.get(REQUEST))
    ours = None if text is None else _ours(text, name)
    foreign, unknown = _foreign(contents, marks)
    return Told(
        contents=contents,
        ours=ours,
        foreign=foreign,
        marks={key: value for key, value in marks.items() if key != REQUEST},
        unread=(*unread, *unknown),
    )


def _ours(text: str, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{name} cannot be read", found=str(error)[:200]) from error
    if not isinstance(found, dict):
        raise RequestError(
            f"{name} does not say how it was made", found=f"{type(found).__name__}, not an object"
        )
    return found


Reader = Callable[[Mapping[str, Any]], Foreign]

_OBJECTS: Mapping[str, Reader] = {
    "invokeai_metadata": read_invokeai,
    "prompt": read_comfyui,
    "Comment": read_fooocus,
}
"""Texts of PNG that hold an object, in the order in which they are asked."""


def _foreign(
    contents: Contents, marks: Mapping[str, str]
) -> tuple[tuple[Foreign, ...], tuple[str, ...]]:
    found: list[Foreign] = []
    unread: list[str] = []
    texts = contents.texts
    for where, text in (
        (PARAMETERS, texts.get(PARAMETERS)),
        ("UserComment", contents.comment),
        ("the camera's model", contents.camera),
        ("the comment", contents.file_comment),
        ("exif:UserComment", marks.get("exif:UserComment")),
    ):
        told = None if text is None else _parameters(text, where)
        found += [told] if told else []
        if told is None and text and where in (PARAMETERS, "UserComment"):
            unread.append(f"{where}: {text[:60]!r}")
    for key, read in _OBJECTS.items():
        value = as_object(texts.get(key))
        if value is not None and (key != "Comment" or _is_fooocus(value)):
            found.append(read(value))
        elif key in texts:
            unread.append(f"{key}: {texts[key][:60]!r}")
    return tuple(found), tuple(unread)


def _parameters(text: str, where: str) -> Foreign | None:
    """Of a text that may hold anybody's object, or A1111's lines."""
    value = as_object(text)
    if value is None:
        is_lines = "Steps: " in text or where == PARAMETERS
        return read_a1111(text) if is_lines and text.lstrip()[:1] != "{" else None
    if "sui_image_params" in value:
        return read_swarmui(value)
    if "c" in value and "sampler" in value:
        return read_drawthings(value)
    return read_fooocus(value) if _is_fooocus(value) else None


def _is_fooocus(value: Mapping[str, Any]) -> bool:
    keys = {str(key).lower().replace(" ", "_") for key in value}
    return "base_model" in keys or "fooocus" in str(value.get("version", "")).lower()
