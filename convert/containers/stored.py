"""What a tensor in a file is to everything that reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

from .dtypes import Array


class Stored(Protocol):
    """A tensor of a checkpoint; nothing is read before `array`."""

    @property
    def name(self) -> str:
        """As the file spells it."""

    @property
    def dtype(self) -> str:
        """Its safetensors tag."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""

    @property
    def where(self) -> str:
        """The file."""

    def array(self) -> Array:
        """Its values; BF16 as uint16."""

    def apart(self) -> Stored:
        """The same, read as a stream and not through a map."""

    def release(self) -> None:
        """It is not needed for now: the memory behind it may go."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A stored tensor seen in another way; what a subclass does not say is as in the file."""

    whole: Stored

    @property
    def name(self) -> str:
        """That in the file."""
        return self.whole.name

    @property
    def dtype(self) -> str:
        """That in the file."""
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """That in the file."""
        return self.whole.shape

    @property
    def where(self) -> str:
        """The file."""
        return self.whole.where

    def array(self) -> Array:
        """The values in the file."""
        return self.whole.array()

    def apart(self) -> Self:
        """The same, read as a stream."""
        return replace(self, whole=self.whole.apart())

    def release(self) -> None:
        """Release the tensor in the file, which is read again if more of it is asked for."""
        self.whole.release()
