"""Weights in few bits: how a matrix is divided and stored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from ipa.errors import RequestError, shown

Shape = tuple[int, ...]

BITS = (4, 8)
"""Bits per weight that are on offer."""

GROUP_SIZE = 64
"""Weights of a row that share a scale and an offset. SD1.5's widths are not multiples of 128."""

_WORD = 32  # bits of the unsigned integers that weights are packed into


@dataclass(frozen=True, slots=True)
class Quantization:
    """MLX's affine quantisation: w ≈ scale · q + offset, q a whole number of few bits.

    Each row (the inputs of one output) is cut into groups with one scale and one offset ("bias" in
    MLX's names) each.
    """

    bits: int
    group_size: int = GROUP_SIZE

    @classmethod
    def of(cls, bits: int | None) -> Quantization | None:
        """The quantisation for a number of bits; None is none.

        Raises:
            RequestError: There is no such quantisation.
        """
        if bits is None:
            return None
        if type(bits) is not int or bits not in BITS:
            raise RequestError(
                "unknown quantisation",
                found=shown(bits),
                remedy=f"quantize is {' or '.join(map(str, BITS))} bits, or left out",
            )
        return cls(bits)

    @classmethod
    def parse(cls, tag: str) -> Quantization | None:
        """Parse a `tag`; None where this version does not know it."""
        match = re.fullmatch(r"([0-9]+),([0-9]+)", tag)
        is_known = match and int(match[1]) in BITS and int(match[2]) == GROUP_SIZE
        return cls(int(match[1]), int(match[2])) if match and is_known else None

    @property
    def tag(self) -> str:
        """The value in a file's metadata: "8,64"."""
        return f"{self.bits},{self.group_size}"

    def fits(self, shape: Shape) -> bool:
        """Whether a matrix (outputs, inputs) can be cut into whole groups."""
        return len(shape) == 2 and shape[1] > 0 and shape[1] % self.group_size == 0

    def packed(self, shape: Shape) -> Shape:
        """The shape of a matrix's packed weights, in 32-bit words."""
        return shape[0], shape[1] * self.bits // _WORD

    def nbytes(self, shape: Shape, itemsize: int) -> int:
        """The bytes of a matrix of this shape, with scales and offsets of so many bytes each."""
        return prod(self.packed(shape)) * _WORD // 8 + 2 * prod(self.groups(shape)) * itemsize

    def unpacked(self, shape: Shape) -> Shape:
        """The shape of a matrix, from that of its packed weights."""
        return *shape[:-1], shape[-1] * _WORD // self.bits

    def groups(self, shape: Shape) -> Shape:
        """The shape of a matrix's scales, and of its offsets."""
        return shape[0], shape[1] // self.group_size
