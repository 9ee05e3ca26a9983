"""safetensors files: read through a memory map, written tensor by tensor.

A reader of our own, because safetensors' numpy interface cannot read BF16 and `mx.load` accepts
malformed headers.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from ipa.errors import CheckpointError
from ipa.files import put_whole
from ipa.model.files import require_safetensors

from .atomic import not_written
from .dtypes import NUMPY, Array
from .header import MAX_HEADER_BYTES, Entry, encode_header, parse_header, refuse
from .mapped import MappedTensor, mark_of

_PREFIX = 8  # bytes of the header's length


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetensorsFile:
    """An open file: validated header, mapped weights."""

    path: Path
    tensors: Mapping[str, MappedTensor]
    metadata: Mapping[str, str]


def open_safetensors(path: Path) -> SafetensorsFile:
    """Validate a file's header and map it.

    Raises:
        CheckpointError: It is something else, truncated, or breaks the format.
    """
    require_safetensors(path)
    where = str(path)
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        size = state.st_size
        length = int.from_bytes(file.read(_PREFIX), "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            refuse(where, f"a header of {length} bytes")
        start = _PREFIX + length
        if start > size:
            raise CheckpointError(
                f"{where} is truncated",
                found=f"{size} bytes, its header alone needs {start}",
                remedy="the download did not finish: download it again",
            )
        header = parse_header(file.read(length), size - start, where)
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tensors = {
        name: MappedTensor(
            name=name,
            dtype=entry.dtype,
            shape=entry.shape,
            where=where,
            _buffer=buffer,
            _offset=start + entry.begin,
            _mark=mark_of(state),
        )
        for name, entry in header.entries.items()
    }
    return SafetensorsFile(path=path, tensors=tensors, metadata=header.metadata)


class Writable(Protocol):
    """The protocol of a tensor to write, whose values are computed when they are written."""

    @property
    def name(self) -> str:
        """The tensor's name in the file."""

    @property
    def dtype(self) -> str:
        """The tensor's safetensors tag."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""

    def array(self) -> Array:
        """The tensor's values, of that shape and type."""

    def release(self) -> None:
        """Free the tensor's memory: it has been written."""


def write_safetensors(
    path: Path,
    tensors: Iterable[Writable],
    metadata: Mapping[str, str],
    on_written: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a file, whole or not at all; see `write_tensors`.

    Raises:
        CheckpointError: The disk refused, or a tensor is not what it announced.
    """
    try:
        put_whole(path, lambda file: write_tensors(file, tensors, metadata, on_written))
    except OSError as error:
        raise not_written(path, error) from error


def write_tensors(
    file: BinaryIO,
    tensors: Iterable[Writable],
    metadata: Mapping[str, str],
    on_written: Callable[[int], None],
) -> None:
    """Write the header and the tensors, of which only one is in memory at a time.

    Wider types come first, so that all are aligned. `on_written` is called after every tensor with
    its bytes.

    Raises:
        CheckpointError: A tensor is not what it announced.
    """
    rows = sorted(tensors, key=lambda t: (-NUMPY[t.dtype].itemsize, t.name))
    entries, position = [], 0
    for row in rows:
        end = position + nbytes(row.dtype, row.shape)
        entries.append(
            Entry(name=row.name, dtype=row.dtype, shape=row.shape, begin=position, end=end)
        )
        position = end
    file.write(encode_header(entries, metadata))
    for row in rows:
        file.write(_bytes(row))
        row.release()
        on_written(nbytes(row.dtype, row.shape))


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """The size of a tensor in bytes."""
    return int(np.prod(shape, dtype=object)) * NUMPY[dtype].itemsize


def _bytes(row: Writable) -> memoryview:
    array = np.ascontiguousarray(row.array())
    if array.dtype != NUMPY[row.dtype] or array.size != np.prod(row.shape, dtype=object):
        raise CheckpointError(
            f"{row.name} changed while it was written",
            found=f"{array.dtype} {array.shape}, announced as {row.dtype} {row.shape}",
        )
    return array.reshape(-1).view(np.uint8).data
