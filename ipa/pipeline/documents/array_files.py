"""Arrays, embeds and faces of a request as the bytes of safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.errors import RequestError
from ipa.request.embeds import EmbedsOrigin, ImageEmbeds, check_feature
from ipa.request.faces import Face

_FORMAT = {"format": "ipa-mlx reference", "format_version": "1"}
_HALVES = ("conditional", "unconditional", "conditional_face", "unconditional_face")


def array_file(array: npt.NDArray[Any]) -> bytes:
    """An array of numbers."""
    return _saved({"array": array}, {})


def embeds_file(embeds: ImageEmbeds) -> bytes:
    """Image embeds, with where they come from."""
    arrays = {name: getattr(embeds, name) for name in _HALVES}
    about = {entry.name: getattr(embeds.origin, entry.name) for entry in fields(EmbedsOrigin)}
    return _saved({k: v for k, v in arrays.items() if v is not None}, about)


def face_file(face: Face | npt.NDArray[Any]) -> bytes:
    """A face: its vector, and of a `Face` its crop in 8 bits."""
    if not isinstance(face, Face):
        return _saved({"vector": face}, {})
    crop = {} if face.crop is None else {"crop": np.asarray(face.crop)}
    return _saved({"embedding": face.embedding, **crop}, {})


def read_array(data: bytes) -> npt.NDArray[Any]:
    """What `array_file` wrote. Raises RequestError for anything else."""
    return _read(data)[0]["array"]


def read_embeds(data: bytes) -> ImageEmbeds:
    """What `embeds_file` wrote. Raises RequestError for anything else."""
    arrays, about = _read(data)
    try:
        told: Mapping[str, Any] = {entry.name: about[entry.name] for entry in fields(EmbedsOrigin)}
        origin = EmbedsOrigin(**{**told, "feature": check_feature(told["feature"])})
        return ImageEmbeds(**{name: arrays.get(name) for name in _HALVES}, origin=origin)  # type: ignore[arg-type]
    except KeyError as error:
        raise RequestError("embedded image embeds are damaged", found=str(error)) from error


def read_face(data: bytes) -> Face | npt.NDArray[Any]:
    """What `face_file` wrote. Raises RequestError for anything else."""
    arrays = _read(data)[0]
    if "vector" in arrays:
        return arrays["vector"]
    if "embedding" not in arrays:
        raise RequestError("an embedded face is damaged", found=", ".join(arrays)[:80])
    return Face(arrays["embedding"], arrays.get("crop"))


def _saved(arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, str]) -> bytes:
    from safetensors.numpy import save

    contents = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return bytes(save(contents, metadata={**_FORMAT, **about}))


def _read(data: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    import json

    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
        length = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError("an embedded array is damaged", found=str(error)[:120]) from error
    if {name: about.get(name) for name in _FORMAT} != _FORMAT:
        raise RequestError("an embedded array is of another version", found=str(about)[:120])
    return arrays, about
