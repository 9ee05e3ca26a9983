"""The interface of a tensor in a file, whatever the file's format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from .dtypes import Array


class Stored(Protocol):
    """A tensor of a checkpoint; nothing is read before `array`."""

    @property
    def name(self) -> str:
        """The tensor's name as the file spells it."""

    @property
    def dtype(self) -> str:
        """The tensor's safetensors tag."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape as stored."""

    @property
    def where(self) -> str:
        """The file that holds the tensor."""

    def array(self) -> Array:
        """The tensor's values; BF16 as uint16."""

    def plain_file(self) -> Path | None:
        """The safetensors file that has exactly these values under the tensor's name.

        None if they are elsewhere, are another view of it, or the file is no longer the one that
        was opened: then `array` alone gives them.
        """

    def apart(self) -> Stored:
        """The same tensor, whose values are read as a stream and not through a memory map."""

    def release(self) -> None:
        """Let go of the memory behind the tensor; it can be read again."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A stored tensor seen in another way; what a subclass does not say is as in the file."""

    whole: Stored

    @property
    def name(self) -> str:
        """The name of the tensor in the file."""
        return self.whole.name

    @property
    def dtype(self) -> str:
        """The safetensors tag of the tensor in the file."""
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor in the file."""
        return self.whole.shape

    @property
    def where(self) -> str:
        """The file that holds the tensor."""
        return self.whole.where

    def array(self) -> Array:
        """The values in the file."""
        return self.whole.array()

    def plain_file(self) -> Path | None:
        """None: this is another view."""
        return None

    def apart(self) -> Self:
        """The same tensor, read as a stream."""
        return replace(self, whole=self.whole.apart())

    def release(self) -> None:
        """Release the tensor in the file, which is read again if more of it is asked for."""
        self.whole.release()
