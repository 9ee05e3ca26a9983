"""Tensors in files that are mapped into memory: nothing is read before it is asked for."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ipa.errors import CheckpointError

from .dtypes import NUMPY, Array


@dataclass(frozen=True, kw_only=True, slots=True)
class MappedTensor:
    """A tensor in a file. Nothing is read before `array`.

    Attributes:
        name: As the file spells it; names of nested dicts are joined by dots.
        dtype: Its safetensors tag.
        shape: As stored.
        where: The file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    where: str
    _buffer: mmap.mmap = field(repr=False, compare=False)
    _offset: int = field(repr=False, compare=False)
    # In bytes; None where the values lie one after another.
    _strides: tuple[int, ...] | None = field(default=None, repr=False, compare=False)
    _apart: bool = field(default=False, repr=False, compare=False)
    # What tells a safetensors file from another under its name; None for other files.
    _mark: tuple[int, ...] | None = field(default=None, repr=False, compare=False)

    def apart(self) -> MappedTensor:
        """The same tensor, whose `array` has memory of its own, read from the file as a stream.

        For work that takes minutes: a file that is cut short meanwhile ends a process that touches
        the map (SIGBUS), but is an error to who reads.
        """
        return replace(self, _apart=True)

    def array(self) -> Array:
        """A read-only view of the file, or a copy if it is transposed there.

        BF16 comes as uint16 (the tag says what it is).

        Raises:
            CheckpointError: It is read `apart`, and the file has changed its size or is gone.
        """
        kind = NUMPY[self.dtype]
        if 0 in self.shape:
            return np.empty(self.shape, kind)
        buffer, offset = (self._read(), 0) if self._apart else (self._buffer, self._offset)
        values: Array = np.ndarray(self.shape, kind, buffer, offset, self._strides)
        return values if values.flags.c_contiguous else np.ascontiguousarray(values)

    def plain_file(self) -> Path | None:
        """See `Stored.plain_file`."""
        path = Path(self.where)
        return path if self._mark is not None and file_mark(path) == self._mark else None

    def release(self) -> None:
        """Give the tensor's pages back to the system; views of it stay good and are read again."""
        begin = self._offset // mmap.PAGESIZE * mmap.PAGESIZE
        length = self._offset + self._span - begin
        if self._span:
            self._buffer.madvise(mmap.MADV_DONTNEED, begin, length)

    def _read(self) -> Array:
        """The bytes of a tensor, and whatever lies between them."""
        raw, found = np.empty(self._span, np.uint8), "another size"
        try:
            with Path(self.where).open("rb") as file:
                file.seek(self._offset)
                count = file.readinto(raw.data)
                if count == raw.size and os.fstat(file.fileno()).st_size == len(self._buffer):
                    return raw
        except OSError as error:
            found = error.strerror or str(error)
        raise CheckpointError(
            f"{self.where} changed while it was read",
            found=found,
            remedy="wait until its download is complete, and try again",
        )

    @property
    def _span(self) -> int:
        """How many bytes lie between the first element and the end of the last."""
        size = NUMPY[self.dtype].itemsize
        if 0 in self.shape:
            return 0
        if self._strides is None:
            return int(np.prod(self.shape, dtype=object)) * size
        reach = sum((n - 1) * stride for n, stride in zip(self.shape, self._strides, strict=True))
        return reach + size


def file_mark(path: Path) -> tuple[int, ...] | None:
    """What tells the file of a path from another, or from itself before a change; None if gone."""
    try:
        return mark_of(path.stat())
    except OSError:
        return None


def mark_of(found: os.stat_result) -> tuple[int, ...]:
    """The mark of a file: where it is, its size, and when it was changed."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
