"""A request in a file: JSON that a person wrote, or what a picture of ours says of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipa.errors import RequestError
from ipa.metadata.dialects.foreign import Weights
from ipa.metadata.reading import Told, read_told
from ipa.metadata.references import read_references
from ipa.metadata.writing import format_of

from .documents.arguments import build_objects, check_names, read_arguments, readable_names
from .documents.pictures import PathPictures
from .picture_store import PictureStore
from .replay import from_description, is_description

SOURCES = ("adapters", "controlnets", "loras", "textual_inversions")
"""Keys of what is to be loaded, as of the options --adapter and so on."""

_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class RequestFile:
    """The contents of a request file.

    Attributes:
        arguments: Those of a call, pictures opened.
        sources: What to load first, by `SOURCES`.
        described: The description that it was made from; None where a person wrote it.
        run: How it went, where a picture says so: backend, dtype, vae_memory, quantize (bits).
        tool: The program whose request it is, where it is not ours.
        weights: The files of weights that such a request names.
        lost: What of it could not be taken over, in words.
        made: What a picture of ours says besides: its model, backend and so on.
    """

    arguments: Mapping[str, Any]
    sources: Mapping[str, tuple[str, ...]]
    described: Mapping[str, Any] | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    tool: str | None = None
    weights: tuple[Weights, ...] = ()
    lost: tuple[str, ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)


def read_request(path: Path, pictures: Iterable[Path] = ()) -> RequestFile:
    """Read a request from a file.

    Args:
        path: JSON with the arguments of a call: pictures as paths beside the file, image prompts
            and controls as objects, and lists of `SOURCES`. Or a picture of `generate`, or what its
            --json printed: both know pictures by their hashes alone, but for those that a PNG
            embeds. Or a picture of another program, as far as its request can be ours.
        pictures: Files and folders in which such pictures are looked for, before embedded ones.

    Raises:
        RequestError: It cannot be read, or asks for what there is not.
    """
    if format_of(path) is not None:
        return _of_picture(path, read_told(path), pictures)
    contents = _read(path)
    given = _request_of(path, contents)
    if is_description(given):
        arguments = from_description(given, PictureStore.of(pictures))
        return RequestFile(build_objects(arguments), {}, given, _run_of(contents))
    check_names(path.name, given, readable_names() | set(SOURCES))
    asked = {name: value for name, value in given.items() if name not in SOURCES}
    arguments = read_arguments(asked, PathPictures(path.parent), path.name)
    sources = {name: _texts(name, given.get(name, [])) for name in SOURCES}
    return RequestFile(arguments, sources)


def _of_picture(path: Path, told: Told, pictures: Iterable[Path]) -> RequestFile:
    """What a picture says: ours whole, another program's as far as it goes."""
    if told.ours is not None and isinstance(told.ours.get("request"), dict):
        return _of_ours(path, told, tuple(pictures))
    if told.ours is not None or not told.foreign:
        raise RequestError(
            f"{path} says nothing of its request",
            found="a sheet" if told.ours is not None else "no text that is known",
            remedy="a picture that ipa-mlx generate wrote, and no program saved since; or JSON",
        )
    first = told.foreign[0]
    return RequestFile(
        build_objects(first.arguments),
        {},
        tool=first.tool,
        weights=first.weights,
        lost=first.lost,
    )


def _of_ours(path: Path, told: Told, pictures: tuple[Path, ...]) -> RequestFile:
    """Pictures at hand are as they were; what is embedded may be what the encoder sees of them."""
    made = dict(told.ours or {})
    request = made.pop("request")
    listed = made.pop("references", None)
    if listed is not None:
        if not isinstance(listed, dict):
            raise RequestError(
                f"the list of embedded references of {path} is damaged", found=f"{listed!r:.80}"
            )
        embedded, files = read_references(listed, told.contents.references, str(path))
        if pictures:
            with suppress(RequestError):  # they are not all at hand: those inside are
                arguments = from_description(request, PictureStore.of(pictures))
                return RequestFile(build_objects(arguments), {}, request, _run_of(made), made=made)
        request, store = embedded, PictureStore.of((), files)
    else:
        store = PictureStore.of(pictures)
    arguments = from_description(request, store)
    return RequestFile(build_objects(arguments), {}, request, _run_of(made), made=made)


def _read(path: Path) -> object:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RequestError(f"{path} is no request", found=f"over {_MAX_BYTES} bytes")
        contents = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(
            f"the request {path} cannot be read",
            found=str(error)[:200],
            remedy='a JSON object such as {"prompt": "a dog", "seed": 1}, or a PNG of ipa-mlx',
        ) from error
    return contents


def _request_of(path: Path, contents: object) -> Mapping[str, Any]:
    found = contents.get("request", contents) if isinstance(contents, dict) else contents
    if not isinstance(found, dict):
        raise RequestError(f"{path} is no request", found=type(found).__name__)
    return found


def _run_of(contents: object) -> Mapping[str, Any]:
    """What a picture says of its run, but for what is no word or number."""
    if not isinstance(contents, dict):
        return {}
    found = {name: contents.get(name) for name in ("backend", "dtype", "vae_memory")}
    quantization = contents.get("quantization")
    unet = quantization.get("unet") if isinstance(quantization, dict) else None
    if isinstance(unet, dict):
        found["quantize"] = unet.get("bits")
    return {name: value for name, value in found.items() if isinstance(value, (str, int))}


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise RequestError(
            f"{name} of a request is a list of texts",
            found=repr(value)[:80],
            remedy=f'such as "{name}": ["NAME=SOURCE"]',
        )
    return tuple(value)
