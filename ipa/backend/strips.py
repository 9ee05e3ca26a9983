"""Strips of rows: a picture inside a network, kept in parts that are given back one by one.

A layer makes its output strip by strip. It looks at the rows that it needs of its input, with the
neighbours that a convolution reaches for, and forgets those that no later strip needs: so input and
output are never whole at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ipa.arrays import Array

STRIP_NUMBERS = 1 << 22
"""Numbers in a strip, about: enough for a GPU, and little beside a large picture."""


Join = Callable[[Sequence[Any]], Any]


class Strips:
    """A picture as strips, from top to bottom.

    Args:
        axis: Of the rows in its arrays.
        join: Strips to one array.
        parts: The first strips.
    """

    def __init__(self, axis: int, join: Join, parts: Sequence[Array] = ()) -> None:
        self._axis, self._join = axis, join
        self._parts: list[tuple[int, Array]] = []
        self.height = 0
        for part in parts:
            self.add(part)

    def __iter__(self) -> Iterator[Array]:
        """The strips that are not forgotten."""
        return (part for _, part in self._parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole picture."""
        shape = list(self._parts[0][1].shape)
        shape[self._axis] = self.height
        return tuple(shape)

    def like(self, parts: Sequence[Array] = ()) -> Strips:
        """Another picture of the same framework."""
        return Strips(self._axis, self._join, parts)

    def add(self, part: Array) -> None:
        """Add the next strip."""
        self._parts.append((self.height, part))
        self.height += part.shape[self._axis]

    def rows(self, top: int, end: int) -> Array:
        """Some rows, of as many strips as they lie in."""
        found = []
        for start, part in self._parts:
            first, last = max(top - start, 0), min(end - start, part.shape[self._axis])
            if first < last:
                found.append(part[(slice(None),) * self._axis + (slice(first, last),)])
        return found[0] if len(found) == 1 else self._join(found)

    def forget(self, before: int) -> None:
        """Give back the strips that lie wholly above a row."""
        ends = [start + part.shape[self._axis] for start, part in self._parts]
        self._parts = [part for part, end in zip(self._parts, ends, strict=True) if end > before]

    def whole(self) -> Array:
        """The picture in one array; its strips are forgotten."""
        parts = list(self)
        self._parts = []
        return parts[0] if len(parts) == 1 else self._join(parts)


def spans(height: int, row: int, numbers: int = STRIP_NUMBERS) -> list[tuple[int, int]]:
    """The first and the last row, exclusive, of each strip.

    Args:
        height: Of what is made.
        row: The numbers in one of its rows.
        numbers: In a strip, about; a strip has at least one row.
    """
    rows = max(1, numbers // row)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def neighbours(top: int, end: int, height: int) -> tuple[int, int]:
    """The rows that a 3×3 convolution reads for some rows of its output."""
    return max(top - 1, 0), min(end + 1, height)
