"""Files of torch.save: their tensors by name, mapped, after everything about them is checked."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

from ipa.errors import CheckpointError
from ipa.model.files import Container, container

from ..dtypes import NUMPY
from ..mapped import MappedTensor
from .pickle_machine import Buffer
from .pickle_values import RefusedError, View, kind
from .torch_legacy import read_legacy
from .torch_zip import Contents, read_zip

_READERS: Mapping[Container, Callable[[Buffer], Contents]] = {
    "torch zip": read_zip,
    "torch stream": read_legacy,
}
_STATE = "state_dict"  # of a training run: the rest of the file is not the network's
_LEARNED = "string_to_param"  # in A1111's files of textual inversion
_UNNAMED = "*"  # what A1111 calls embeddings that have no other name
_SINGLE = "tensor"  # the name of the one of a file that is no list
_MAX_TENSORS = 100_000
_MAX_NAME = 256
_MAX_DEPTH = 16
_MAX_TIES = 2  # bytes of all tensors over those of the file; tensors may share storages


def open_torch(path: Path, kind_of_file: Container) -> Mapping[str, MappedTensor]:
    """The tensors of a file of torch.save, which is never run.

    Args:
        path: The file.
        kind_of_file: What it is, as `ipa.model.files.container` says.

    Raises:
        CheckpointError: It is damaged, or holds anything but weights.
    """
    return _open(path, kind_of_file, _views)


def open_tensor_list(path: Path) -> tuple[list[MappedTensor], bool]:
    """The tensors of a file that is one tensor, or a list of them; and whether it is a single one.

    Raises:
        CheckpointError: It is damaged, no file of torch.save, or holds anything else.
    """
    kind_of_file = container(path)
    if kind_of_file not in _READERS:
        raise CheckpointError(f"{path} is no file of torch.save", found=f"a {kind_of_file} file")
    tensors = _open(path, kind_of_file, _listed)
    return list(tensors.values()), _SINGLE in tensors


def open_embeddings(path: Path, kind_of_file: Container) -> Mapping[str, MappedTensor]:
    """The tensors of a file of textual inversion by name, which is never run.

    A1111's and those of its authors keep them in `string_to_param`, beside their name and how they
    were trained; theirs is then the name of the file's. Others are a dict of tensors, or one tensor
    without a name, which is called "*".

    Raises:
        CheckpointError: It is damaged, or holds anything else.
    """
    return _open(path, kind_of_file, _learned)


def _open(
    path: Path, kind_of_file: Container, find: Callable[[object], Mapping[str, View]]
) -> dict[str, MappedTensor]:
    with path.open("rb") as file:
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        contents = _READERS[kind_of_file](buffer)
        views = find(contents.value)
        total = sum(prod(v.shape) * NUMPY[v.dtype].itemsize for v in views.values())
        if total > _MAX_TIES * len(buffer):
            raise RefusedError(f"tensors of {total} bytes in a file of {len(buffer)}")
    except RefusedError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than weights",
            found=error.found,
            remedy=error.remedy or "download it again, from a source that you trust",
        ) from error
    return {
        name: MappedTensor(
            name=name,
            dtype=view.dtype,
            shape=view.shape,
            where=str(path),
            _buffer=buffer,
            _offset=contents.places[view.storage.key] + view.offset * NUMPY[view.dtype].itemsize,
            _strides=tuple(stride * NUMPY[view.dtype].itemsize for stride in view.strides),
        )
        for name, view in views.items()
    }


def _listed(value: object) -> dict[str, View]:
    """The tensors of an object that is one tensor, a list or a tuple, by their numbers."""
    if isinstance(value, View):
        return {_SINGLE: value}
    entries = value if isinstance(value, (list, tuple)) else ()
    views = {str(n): entry for n, entry in enumerate(entries) if isinstance(entry, View)}
    if not views or len(views) != len(entries) or len(views) > _MAX_TENSORS:
        raise RefusedError(f"a {kind(value)} where a tensor or a list of tensors should be")
    return views


def _learned(value: object) -> dict[str, View]:
    if isinstance(value, View):
        return {_UNNAMED: value}
    if not isinstance(value, dict) or _LEARNED not in value:
        return _views(value)
    found = _views({_STATE: value[_LEARNED]})
    name = value.get("name")
    if len(found) == 1 and isinstance(name, str) and name:
        found = dict.fromkeys([name], *found.values())
    return _views(found)


def _views(value: object) -> dict[str, View]:
    """The tensors of the state dict, which may lie in dicts of dicts."""
    if not isinstance(value, dict):
        raise RefusedError(f"a {kind(value)} where a state dict should be")
    state = value.get(_STATE, value)
    if not isinstance(state, dict):
        raise RefusedError(f"a state dict that is a {kind(state)}")
    views: dict[str, View] = {}
    seen: set[int] = set()

    def walk(level: Mapping[object, object], prefix: str, depth: int) -> None:
        if id(level) in seen or depth > _MAX_DEPTH:
            raise RefusedError(f"one dict in two places, or too deep, at {prefix[:80]!r}")
        seen.add(id(level))
        for key, entry in level.items():
            name = f"{prefix}{key}" if isinstance(key, str) else ""
            if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
                raise RefusedError(f"a tensor with the name {str(key)[:40]!r}")
            if isinstance(entry, dict):
                walk(entry, f"{name}.", depth + 1)
            elif not isinstance(entry, View):
                raise RefusedError(f"{name}, which is no tensor but of type {kind(entry)}")
            elif name in views or len(views) >= _MAX_TENSORS:
                raise RefusedError(f"the name {name!r} twice, or more than {_MAX_TENSORS} tensors")
            else:
                views[name] = entry

    walk(state, "", 0)
    return views
