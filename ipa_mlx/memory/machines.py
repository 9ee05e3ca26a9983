"""How devices run a graph: what their kernels need beside inputs and outputs, how far MLX is ahead.

MLX gives an operation its memory when it is put into the queue, not when it runs, so how far the
queue reaches is part of the peak. Source: MLX 0.32, `eval_impl` (mlx/transforms.cpp), the
command encoders and the convolutions of each backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod

from ..device import Device
from ..graph.dispatch import kernel_of
from ..graph.nodes import Node
from .operands import Operand

_FLOAT = 4  # bytes of float32, in which a CPU convolves

Needs = Callable[[Node, Sequence[Operand]], "tuple[int, ...]"]


@dataclass(frozen=True, slots=True)
class Machine:
    """How a device runs a graph.

    Attributes:
        needs: By the name of a node: the bytes of each array that it makes for itself.
        tasks: The tasks that may wait, before MLX waits for one.
        most: What fills a task: kernels, and bytes that they read (0: no matter how many).
        counts_ends: Whether giving memory back after a node counts as a kernel.
    """

    tasks: int
    most: tuple[int, int]
    counts_ends: bool
    needs: Mapping[str, Needs] = field(default_factory=dict)

    def extra(self, node: Node, operands: Sequence[Operand]) -> tuple[int, ...]:
        """The bytes of what a node makes for itself, and gives back when it has run."""
        found = self.needs.get(node.name)
        return () if found is None else found(node, operands)


def _is_matrix(operand: Operand) -> bool:
    """Whether BLAS reads it as it lies: rows, or the rows of its transpose."""
    height, width = operand.tensor.shape[-2:]
    down, right = operand.strides[-2:]
    return (right == 1 and down == width) or (down == 1 and right == height)


def _copied(node: Node, operands: Sequence[Operand]) -> tuple[int, ...]:
    return tuple(one.tensor.nbytes for one in operands[:2] if not _is_matrix(one))


def _rows(node: Node, operands: Sequence[Operand]) -> tuple[int, ...]:
    return tuple(one.tensor.nbytes for one in operands[:1] if not one.are_rows)


def _unfolded(node: Node, operands: Sequence[Operand]) -> tuple[int, ...]:
    """A CPU's convolution: the input with its border, every pixel's neighbours, in float32."""
    x, weight = (one.tensor for one in operands)
    batch, *sides, channels = x.shape
    low, high = node.arguments[1], node.arguments[2]
    bordered = prod(side + a + b for side, a, b in zip(sides, low, high, strict=True))
    made, kernel = prod(node.outputs[0].shape[1:-1]), prod(weight.shape[1:-1])
    found = (batch * bordered * channels * _FLOAT, batch * made * kernel * channels * _FLOAT)
    if weight.dtype.size == _FLOAT:
        return found
    return (*found, weight.size * _FLOAT, node.outputs[0].size * _FLOAT)


def _blas_strided(node: Node, operands: Sequence[Operand]) -> tuple[int, ...]:
    """Metal's products read any matrix whose rows or columns lie together."""
    sides = operands[:2]
    return tuple(one.tensor.nbytes for one in sides if 1 not in one.strides[-2:])


def _metal_convolution(node: Node, operands: Sequence[Operand]) -> tuple[int, ...]:
    """Winograd's copies: F(6, 3), tiles of 8 × 8 of the bordered input and of the output."""
    x, weight = (one.tensor for one in operands)
    copies = tuple(one.tensor.nbytes for one in operands if not one.are_rows)
    name, item = kernel_of(node).name, x.dtype.size
    batch, height, width, inputs = x.shape
    outputs = weight.shape[0]
    if name == "Winograd":
        down, right = 6 * ceil(height / 6) + 2, 6 * ceil(width / 6) + 2
        tiles = 64 * batch * ceil(height / 6) * ceil(width / 6)
        made = (batch * down * right * inputs, 64 * inputs * outputs)
        return (*copies, *(n * item for n in (*made, tiles * inputs, tiles * outputs)))
    if name == "unfold and matmul":
        kernel, made = prod(weight.shape[1:-1]), prod(node.outputs[0].shape[:-1])
        return (*copies, made * kernel * inputs * item)
    return copies


def _metal_attention(node: Node, operands: Sequence[Operand]) -> tuple[int, ...]:
    """The matrix of scores, where no kernel attends without it."""
    q, k = operands[0].tensor, operands[1].tensor
    if kernel_of(node).name != "unfused":
        return ()
    return (q.nbytes, prod(q.shape[:-1]) * k.shape[-2] * q.dtype.size)


_CPU = Machine(
    tasks=10,
    most=(10, 0),
    counts_ends=True,
    needs={
        "Matmul": _copied,
        "AddMM": _copied,
        "QuantizedMatmul": _rows,
        "Convolution": _unfolded,
    },
)
_METAL = Machine(
    tasks=10,
    most=(50, 50 << 20),
    counts_ends=False,
    needs={
        "Matmul": _blas_strided,
        "AddMM": _blas_strided,
        "QuantizedMatmul": _rows,
        "Convolution": _metal_convolution,
        "scaled_dot_product_attention": _metal_attention,
    },
)
MACHINES: Mapping[Device, Machine] = {
    Device.CPU: _CPU,
    Device.METAL: _METAL,
    Device.CUDA: _METAL,  # which has no Winograd; its libraries have workspaces instead
}
"""The devices. The CPU's is held to measurement, Metal's is from its source alone."""

KERNELS: Mapping[str, int] = {"Convolution": 2, "AddMM": 2}
"""Kernels of a node on a CPU where they are not one, beside one for each thing that it makes."""
