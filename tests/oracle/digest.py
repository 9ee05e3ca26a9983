"""One hash of values of many kinds: equal ones have equal hashes, in every process."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from PIL import Image


class NoDigestError(TypeError):
    """A value that may hold more than is seen of it."""


def digest(value: Any) -> str:
    """SHA-256 of a value and all that is in it.

    Raises:
        NoDigestError: Something in it is of a kind that is not known.
    """
    hashed = hashlib.sha256()
    for part in _parts(value):
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """What a value is, in pieces of which each is told with its length."""
    yield f"{type(value).__module__}.{type(value).__qualname__}".encode()
    if value is None or isinstance(value, (bool, int, float, complex, str, Path, np.generic)):
        yield repr(value).encode()
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype.str} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, torch.Tensor):
        yield f"{value.dtype}".encode()
        yield from _parts(value.detach().cpu().to(torch.float64).numpy())
    elif isinstance(value, Image.Image):
        yield f"{value.mode} {value.size}".encode()
        yield value.tobytes()
    else:
        yield from _inside(value)


def _inside(value: Any) -> Iterator[bytes]:
    held: tuple[Any, ...]
    if isinstance(value, Mapping):
        held = tuple(value.items())
    elif isinstance(value, (list, tuple)):
        held = tuple(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = tuple((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    elif isinstance(value, (type, FunctionType)):
        held = (value.__module__, value.__qualname__, *_body(value))
    elif isinstance(value, partial):
        held = (value.func, value.args, value.keywords)
    else:
        raise NoDigestError(f"no digest of a {type(value).__qualname__}")
    yield str(len(held)).encode()
    for one in held:
        yield from _parts(one)


def _body(value: Any) -> Iterator[Any]:
    """A function's place and what it closes over; its source is for others to hash."""
    if isinstance(value, FunctionType):
        yield tuple(value.__code__.co_positions())
        yield value.__defaults__
        yield tuple(sorted((value.__kwdefaults__ or {}).items()))
        for cell in value.__closure__ or ():
            yield cell.cell_contents
