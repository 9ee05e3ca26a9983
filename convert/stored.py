"""What a tensor in a file is to everything that reads it."""

from __future__ import annotations

from typing import Protocol

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
