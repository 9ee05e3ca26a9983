"""Other spellings of a network's tensors: what a tensor in a file is, under its canonical name.

Most spellings only rename. OpenCLIP also keeps the queries, keys and values of a layer in one
matrix, and its projections the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from ipa.errors import CheckpointError

from ..containers.dtypes import Array
from ..containers.stored import Stored, Wrapper
from .rules import Rename

Named: TypeAlias = tuple[str, Stored]


@dataclass(frozen=True, slots=True)
class Names:
    """Renames by a table: for spellings whose numbers have to be computed."""

    canonical: Mapping[str, str]

    def views(self, name: str, stored: Stored) -> Iterator[Named]:
        """The tensor under its canonical name, or as it is where the table lacks it."""
        yield self.canonical.get(name, name), stored


@dataclass(frozen=True, slots=True)
class Split:
    """One tensor that holds several, of equally many rows each, in this order."""

    source: str
    targets: tuple[str, ...]
    _rules: tuple[Rename, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rules = tuple(Rename(self.source, target) for target in self.targets)
        object.__setattr__(self, "_rules", rules)

    def views(self, name: str, stored: Stored) -> Iterator[Named]:
        """The parts, or the tensor as it is where the pattern does not match.

        Raises:
            CheckpointError: The rows do not divide.
        """
        names = [rule.apply(name) for rule in self._rules]
        if names == [name] * len(names):
            yield name, stored
            return
        rows = stored.shape[0] if stored.shape else 0
        height, rest = divmod(rows, len(names))
        if rest or not height:
            raise CheckpointError(
                f"{stored.where}: {stored.name} should hold {len(names)} matrices",
                found=f"shape {stored.shape}",
                remedy="the file is damaged, or of a network that is not supported",
            )
        for number, part in enumerate(names):
            yield part, Rows(stored, number * height, (number + 1) * height)


@dataclass(frozen=True, slots=True)
class Turned:
    """A matrix that a spelling stores transposed, (in, out).

    Told by its name and never by its shape: public ones are square.
    """

    rule: Rename

    def views(self, name: str, stored: Stored) -> Iterator[Named]:
        """The transposed matrix, or the tensor as it is where the rule does not match."""
        target = self.rule.apply(name)
        yield target, (stored if target == name else Transposed(stored))


Alias: TypeAlias = Rename | Names | Split | Turned


def respell(name: str, stored: Stored, aliases: Iterable[Alias]) -> list[Named]:
    """The tensors that one of a file is, after all spellings, one after the other."""
    found = [(name, stored)]
    for alias in aliases:
        found = [view for old, tensor in found for view in alias.views(old, tensor)]
    return found


@dataclass(frozen=True, slots=True)
class Rows(Wrapper):
    """Some rows of a stored tensor."""

    begin: int
    end: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of these rows."""
        return (self.end - self.begin, *self.whole.shape[1:])

    def array(self) -> Array:
        """The rows: a view of the whole."""
        return self.whole.array()[self.begin : self.end]


@dataclass(frozen=True, slots=True)
class Transposed(Wrapper):
    """A stored matrix, transposed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape after transposing."""
        return self.whole.shape[::-1]

    def array(self) -> Array:
        """The values, in a transposed copy."""
        return np.ascontiguousarray(self.whole.array().T)
