"""Tensors that a network expects, and how their axes are laid out here and there.

PyTorch convolves with weights (out, in, height, width), MLX with (out, height, width, in). A 1×1
convolution is a matrix in MLX. Everything else is laid out alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..containers.dtypes import Array

Shape = tuple[int, ...]


class Layout(Enum):
    """How a tensor's axes change on the way to MLX."""

    AS_IS = "as is"
    CONVOLUTION = "OIHW to OHWI"
    POINTWISE = "1×1 convolution to matrix"

    def target_shape(self, shape: Shape) -> Shape:
        """The shape in MLX of a tensor of this shape in the checkpoint."""
        match self:
            case Layout.AS_IS:
                return shape
            case Layout.CONVOLUTION:
                outputs, inputs, height, width = shape
                return outputs, height, width, inputs
            case Layout.POINTWISE:
                return shape[:2]

    def accepts(self, expected: Shape, found: Shape) -> bool:
        """Whether a stored shape is right; a 1×1 convolution may be stored as a matrix."""
        if self is Layout.POINTWISE:
            spare = found[2:]
            return found[:2] == expected[:2] and len(spare) <= 2 and all(n == 1 for n in spare)
        return found == expected

    def to_target(self, array: Array) -> Array:
        """Values as MLX wants them; maybe a view."""
        match self:
            case Layout.AS_IS:
                return array
            case Layout.CONVOLUTION:
                return array.transpose(0, 2, 3, 1)
            case Layout.POINTWISE:
                return array.reshape(array.shape[:2])

    def to_source(self, array: Array, shape: Shape) -> Array:
        """Values of that shape as the checkpoint stores them, the inverse; maybe a view."""
        match self:
            case Layout.AS_IS:
                return array
            case Layout.CONVOLUTION:
                return array.transpose(0, 3, 1, 2)
            case Layout.POINTWISE:
                return array.reshape(shape)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that a network expects, as the original checkpoint names and stores it."""

    name: str
    shape: Shape
    layout: Layout = Layout.AS_IS

    @property
    def target_shape(self) -> Shape:
        """The tensor's shape in MLX."""
        return self.layout.target_shape(self.shape)
