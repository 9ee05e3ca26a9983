"""A file of weights written whole or not at all, with its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from ipa.files import put_whole

from ..containers.atomic import not_written, take_new_name
from ..containers.safetensors_file import Writable, nbytes, write_tensors
from .manifest import Sources

Progress = Callable[[int, int], None]
"""A callback that gets the bytes that are done and the bytes in all."""


class Counter:
    """A count of the bytes written so far, over several files."""

    def __init__(self, total: int, report: Progress | None) -> None:
        self._done, self._total, self._report = 0, total, report

    def add(self, count: int) -> None:
        """Count so many more bytes, and report them."""
        self._done += count
        if self._report is not None:
            self._report(self._done, self._total)


def write_file(
    target: Path,
    tensors: Sequence[Writable],
    sources: Sources,
    metadata: Mapping[str, str],
    on_progress: Progress | None = None,
) -> None:
    """Write a file beside its target; it gets its name when everything is in order.

    Raises:
        CheckpointError: The disk refused, a source changed, or the name was taken meanwhile.
    """
    count = Counter(sum(nbytes(row.dtype, row.shape) for row in tensors), on_progress)

    def write(file: BinaryIO) -> None:
        with sources.unchanged():
            write_tensors(file, tensors, metadata, count.add)

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        put_whole(target, write, take_new_name)
    except OSError as error:
        raise not_written(target, error) from error
