"""How a field of a request is read from a file: the tables `READS` say it beside the fields."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import TypeAlias


class Read(Enum):
    """How a field that is not read as it stands is read from JSON."""

    PICTURES = auto()
    """The path of a picture, or a list of them."""

    PICTURES_OR_NAME = auto()
    """Likewise, or a name that is no file."""

    OBJECTS = auto()
    """A list of objects, with fields of their own."""

    NEVER = auto()
    """Not at all: a file cannot hold it."""


Reads: TypeAlias = Mapping[str, Read]
"""Fields by name; those that are not in it are read as they stand."""
