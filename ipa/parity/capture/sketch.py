"""A stage in few numbers: moments and a random projection, from which distances are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

WIDTH = 256
"""The length of a projection."""


ERROR = (2 * WIDTH) ** -0.5
"""The relative standard deviation of a distance between two projections: 0.044."""


# Seeds are part of the format: with others, old captures would be worthless.
_SIGNS, _TURNS = 0x1BA, 0x1BB


_ROWS = 256  # projected at once: they stay in the cache


_BLOCK = _ROWS * WIDTH


@dataclass(frozen=True, slots=True)
class Moments:
    """The moments of an array, in float64. `norm` is the L2 norm."""

    mean: float
    std: float
    min: float
    max: float
    norm: float

    @classmethod
    def of(cls, array: npt.NDArray[np.floating]) -> Moments:
        """The moments of an array that is not empty; NaN where it is not finite."""
        wide = array.astype(np.float64)
        with np.errstate(invalid="ignore"):
            mean, std = float(wide.mean()), float(wide.std())
            norm = float(np.sqrt(np.square(wide, out=wide).sum()))
        return cls(mean, std, float(array.min()), float(array.max()), norm)


@dataclass(frozen=True, slots=True)
class Sketch:
    """A sketch of an array: its shape, its moments, and a random projection of it.

    The array's numbers, in order, stand in rows of `WIDTH`; each gets a random sign, each row is
    turned by a random number of places, and columns are summed (a count sketch: Charikar, Chen,
    Farach-Colton 2002; one pass). The projection is linear, and the squared norm of the projection
    of a difference has the difference's own squared norm as its mean, √(2/WIDTH) of it as its
    standard deviation at most. Signs and turns are raw bits of Philox under fixed seeds, and sums
    are of float64 in a fixed order: the same array gives the same bits everywhere. `projection` is
    (min(WIDTH, size),), rounded to float32; of an array of one row it is its numbers, signs aside.
    """

    shape: tuple[int, ...]
    moments: Moments
    projection: npt.NDArray[np.float32] = field(repr=False)

    @classmethod
    def of(cls, array: npt.NDArray[np.floating]) -> Sketch:
        """The sketch of an array that is not empty."""
        return cls(array.shape, Moments.of(array), project(array).astype(np.float32))

    @property
    def size(self) -> int:
        """How many numbers the array has."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """The sketch's bytes."""
        return self.projection.nbytes


def project(array: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The projection of an array, not yet rounded."""
    flat = array.reshape(-1)
    total = np.zeros(WIDTH)
    signs, turns = np.random.Philox(key=_SIGNS), np.random.Philox(key=_TURNS)
    with np.errstate(invalid="ignore"):
        for start in range(0, flat.size, _BLOCK):
            values = flat[start : start + _BLOCK].astype(np.float64)
            np.negative(values, out=values, where=_flipped(signs, values.size))
            columns = _columns(turns, -(-values.size // WIDTH), first=start == 0)
            total += np.bincount(columns[: values.size], values, WIDTH)
    return total[: min(WIDTH, flat.size)]


def _flipped(bits: np.random.Philox, count: int) -> npt.NDArray[np.bool_]:
    """The signs of the next numbers: a bit each, the lowest of a word first."""
    raw = bits.random_raw(-(-count // 64)).astype("<u8")
    return np.unpackbits(raw.view(np.uint8), count=count, bitorder="little").astype(bool)


def _columns(bits: np.random.Philox, rows: int, *, first: bool) -> npt.NDArray[np.intp]:
    """The columns that the numbers of the next rows are added to: a word for each row."""
    turns = (bits.random_raw(rows) % np.uint64(WIDTH)).astype(np.intp)
    if first:
        turns[0] = 0  # so that an array of one row keeps its order
    columns = (np.arange(WIDTH, dtype=np.intp) + turns[:, None]) % WIDTH
    return columns.reshape(-1)


Whole: TypeAlias = npt.NDArray[np.floating[Any]]


Kept: TypeAlias = Whole | Sketch
"""A stage as it is kept: a whole array, or a sketch."""


def as_sketch(values: Kept) -> Sketch:
    """The sketch of a stage that is kept whole or as one."""
    return values if isinstance(values, Sketch) else Sketch.of(values)
