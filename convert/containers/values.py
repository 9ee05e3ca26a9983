"""What happens to values: the check that they are numbers, and changes of precision.

Both go through an array in pieces, so that no second copy of a large tensor is made on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from ipa.errors import CheckpointError
from ipa.model.files import not_finite

from .dtypes import NUMPY, Array

_PIECE = 1 << 18  # elements; a piece and its temporaries stay in the cache
_HALF_MAX = 65504.0

# Signed and unsigned type of the same size, and the least bits of what is no number: infinity.
_BITS: Mapping[str, tuple[npt.DTypeLike, npt.DTypeLike, int]] = {
    "F32": (np.int32, np.uint32, 0x7F80_0000),
    "F16": (np.int16, np.uint16, 0x7C00),
    "BF16": (np.int16, np.uint16, 0x7F80),
}


def is_finite(array: Array, dtype: str) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    return _first_special(array, dtype) is None


def check_finite(array: Array, dtype: str, name: str, where: str) -> None:
    """Raise CheckpointError if a tensor holds NaN or infinity."""
    position = _first_special(array, dtype)
    if position is not None:
        raise not_finite(where, name, position, array.size)


def _first_special(array: Array, dtype: str) -> int | None:
    """Where the first NaN or infinity is.

    As integers, positive ones are the largest signed numbers, negative ones the largest unsigned:
    two maxima, each one pass without a copy, find both.
    """
    signed, unsigned, infinity = _BITS[dtype]
    negative = infinity | 1 << 8 * array.itemsize - 1
    for start, piece in pieces(array.reshape(-1)):
        bits = piece.view(unsigned)
        if bits.max() >= negative or piece.view(signed).max() >= infinity:
            return start + int(((bits & infinity) == infinity).argmax())
    return None


def cast(array: Array, source: str, target: str, name: str) -> Array:
    """A finite tensor in another precision; exact, or rounded to nearest even.

    Raises:
        CheckpointError: A value is beyond the target's range.
    """
    if source == target:
        return array
    result = np.empty(array.shape, NUMPY[target])
    flat = result.reshape(-1)
    for start, piece in pieces(array.reshape(-1)):
        rounded = _narrow(widen(piece, source), target, name)
        flat[start : start + piece.size] = rounded
    return result


def pieces(flat: Array) -> Iterator[tuple[int, Array]]:
    """Parts of an array that fit the cache, each with where it begins."""
    for start in range(0, flat.size, _PIECE):
        yield start, flat[start : start + _PIECE]


def widen(piece: Array, source: str) -> npt.NDArray[np.float32]:
    """Values as float32, which is exact; maybe a view."""
    if source == "BF16":
        return (piece.astype(np.uint32) << 16).view(np.float32)
    return piece.astype(np.float32, copy=False)


def _narrow(piece: npt.NDArray[np.float32], target: str, name: str) -> Array:
    if target == "F32":
        return piece
    if target == "F16":
        largest = float(np.abs(piece).max())
        if largest > _HALF_MAX:
            _overflow(name, "float16", largest)
        return piece.astype(np.float16)
    bits = piece.view(np.uint32)
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    if ((upper & 0x7F80) == 0x7F80).any():
        _overflow(name, "bfloat16", float(np.abs(piece).max()))
    return upper


def _overflow(name: str, target: str, largest: float) -> NoReturn:
    raise CheckpointError(
        f"{name} does not fit {target}",
        found=f"a value of size {largest:g}",
        remedy='convert with dtype="bfloat16", or keep float32'
        if target == "float16"
        else "keep float32",
    )
