"""A request in a file: JSON that a person wrote, or what a picture of ours says of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ipa.errors import RequestError

from .documents.arguments import build_objects, check_names, read_arguments, readable_names
from .documents.pictures import PathPictures
from .picture_store import PictureStore
from .png_text import png_text
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
    """

    arguments: Mapping[str, Any]
    sources: Mapping[str, tuple[str, ...]]
    described: Mapping[str, Any] | None = None
    run: Mapping[str, Any] = field(default_factory=dict)


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


def _read(path: Path) -> object:
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
        contents: object = json.loads(text)
    except (OSError, ValueError, RecursionError, Image.DecompressionBombError) as error:
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
