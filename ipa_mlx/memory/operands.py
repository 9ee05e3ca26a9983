"""Where the outputs of a graph's nodes lie: in an input's memory, or in memory of their own.

Source: MLX 0.32, `set_unary_output_data`, `set_binary_op_output_data`, `set_copy_output_data` and
`prepare_reshape` (mlx/backend/common).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..device import SAME
from ..graph.fusion import ELEMENTWISE, UNARY
from ..graph.layouts import RESHAPES, Strides, are_rows, is_dense, reshaped, rows, viewed
from ..graph.nodes import Node, Tensor

_IN_PLACE = UNARY | frozenset({"AsType", "Softmax", "layer_norm", "rms_norm"})
_TOGETHER = ELEMENTWISE | frozenset({"Compiled", "Select"})


@dataclass(slots=True)  # not frozen: thousands are made for a plan
class Operand:
    """An input of a node: how it lies, and whether nothing else will read it or holds it."""

    tensor: Tensor
    strides: Strides
    is_free: bool = False

    @property
    def are_rows(self) -> bool:
        """Whether its rows lie one after another."""
        return are_rows(self.tensor.shape, self.strides)

    @property
    def is_dense(self) -> bool:
        """Whether it fills its memory, in any order."""
        return is_dense(self.tensor.shape, self.strides)

    @property
    def is_scalar(self) -> bool:
        """Whether it is one number, repeated or not."""
        shape = self.tensor.shape
        return all(n == 1 or step == 0 for n, step in zip(shape, self.strides, strict=True))


@dataclass(slots=True)
class Place:
    """Where an output lies: in the memory of the input of this rank; None: in memory of its own.

    `is_view`: nothing is computed.
    """

    strides: Strides
    within: int | None = None
    is_view: bool = False


def places(node: Node, operands: Sequence[Operand]) -> tuple[Place, ...]:
    """Where each output of a node lies."""
    views = _views(node, operands)
    if views is not None:
        return tuple(Place(strides, 0, is_view=True) for strides in views)
    if node.name in _IN_PLACE and len(node.outputs) == 1:
        return (_in_place(node.outputs[0], operands),)
    if node.name in _TOGETHER and len(node.outputs) == 1:
        return (_together(node.outputs[0], operands),)
    return tuple(Place(rows(tensor.shape)) for tensor in node.outputs)


def _views(node: Node, operands: Sequence[Operand]) -> tuple[Strides, ...] | None:
    if not operands:
        return None
    first = operands[0]
    if node.name in RESHAPES:
        found = reshaped(first.tensor.shape, first.strides, node.outputs[0].shape)
        return None if found is None else (found,)
    if node.name == SAME:
        return (first.strides,)
    if node.name == "Contiguous":
        return (first.strides,) if first.are_rows else None
    return viewed(node, first.strides)


def _can_take(operand: Operand, output: Tensor) -> bool:
    """Whether an output may be written over an input."""
    tensor = operand.tensor
    same = tensor.dtype.size == output.dtype.size and tensor.size == output.size
    return operand.is_free and same


def _in_place(output: Tensor, operands: Sequence[Operand]) -> Place:
    """That of a function of one array, which keeps its order if that has no gaps."""
    first = operands[0]
    if not first.is_dense:
        return Place(rows(output.shape))
    return Place(first.strides, 0 if _can_take(first, output) else None)


def _together(output: Tensor, operands: Sequence[Operand]) -> Place:
    """That of a function of several arrays, number by number."""
    arrays = [(rank, one) for rank, one in enumerate(operands) if not one.is_scalar]
    if not arrays:
        return Place(rows(output.shape))
    first = arrays[0][1]
    alike = all(one.is_dense and one.strides == first.strides for _, one in arrays)
    strides = first.strides if alike else rows(output.shape)
    for rank, one in arrays:
        if (alike or one.are_rows) and _can_take(one, output):
            return Place(strides, rank)
    return Place(strides)
