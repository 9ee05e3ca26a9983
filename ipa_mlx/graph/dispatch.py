"""Which kernels MLX takes on Metal for a convolution or an attention: its conditions, as a table.

Source: MLX 0.32, `dispatch_conv_2D_gpu` (mlx/backend/metal/conv.cpp) and `has_fused_kernel`
(scaled_dot_product_attention.cpp). Conditions on chips (M5's) and environments are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .nodes import Node

FUSED_WIDTHS = (64, 72, 80, 96, 128)
"""Head widths with a fused kernel for many queries that MLX takes by itself."""

_VECTOR_WIDTHS = (64, 96, 128, 256)
_FEW_QUERIES = 8
_WINOGRAD_PIXELS = 4096  # of all pictures of a batch
_WINOGRAD_CHANNELS = 256  # inputs and outputs together


@dataclass(frozen=True, slots=True)
class ConvolutionShape:
    """A two-dimensional convolution in one group, without dilation; sizes of its input.

    `kernel` and `stride` are (vertical, horizontal).
    """

    batch: int
    height: int
    width: int
    inputs: int
    outputs: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, node: Node) -> ConvolutionShape:
        """That of a node "Convolution"."""
        x, weight = (tensor.shape for tensor in node.inputs)
        down, right = node.arguments[0]
        return cls(*x, weight[0], (weight[1], weight[2]), (down, right))

    @property
    def made(self) -> int:
        """Pixels of the output, all pictures together, where the border is half the kernel."""
        down, right = self.stride
        return self.batch * -(-self.height // down) * -(-self.width // right)

    @property
    def multiplications(self) -> int:
        """Multiply-adds that the plain sums take."""
        return self.made * self.inputs * self.outputs * self.kernel[0] * self.kernel[1]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A class of kernels: its name, how many it launches, and the condition for it."""

    name: str
    launches: int
    takes: Callable[[Any], bool]


def _is_winograd(c: ConvolutionShape) -> bool:
    return (
        c.kernel == (3, 3)
        and c.stride == (1, 1)
        and c.inputs % 32 == 0
        and c.outputs % 32 == 0
        and c.batch * c.height * c.width >= _WINOGRAD_PIXELS
        and c.inputs + c.outputs >= _WINOGRAD_CHANNELS
    )


def _is_aligned(c: ConvolutionShape) -> bool:
    return (c.inputs <= 4 or c.inputs % 16 == 0) and (c.outputs <= 16 or c.outputs % 16 == 0)


def _is_general(c: ConvolutionShape) -> bool:
    return (c.inputs % 16 == 0 and c.outputs % 16 == 0) or c.made >= 256


CONVOLUTIONS = (
    Kernel("1x1 as matmul", 1, lambda c: c.kernel == (1, 1) and c.stride == (1, 1)),
    Kernel("Winograd", 6, _is_winograd),  # zeros, copy, filters, input, products, output
    Kernel("implicit GEMM", 1, _is_aligned),
    Kernel("implicit GEMM, padded channels", 1, _is_general),
    Kernel("unfold and matmul", 2, lambda _: True),
)
"""The first whose condition holds is taken."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """An attention without a mask of numbers."""

    queries: int
    keys: int
    width: int
    value_width: int
    is_causal: bool = False

    @classmethod
    def of(cls, node: Node) -> AttentionShape:
        """That of a node "scaled_dot_product_attention"."""
        q, k, v = (tensor.shape for tensor in node.inputs[:3])
        return cls(q[2], k[2], q[3], v[3], dict(node.arguments).get("mask") == "causal")


def _is_fused(a: AttentionShape) -> bool:
    is_causal_possible = not a.is_causal or a.queries <= a.keys
    is_known = a.width == a.value_width and a.width in FUSED_WIDTHS
    return a.queries > _FEW_QUERIES and is_known and is_causal_possible


def _is_vector(a: AttentionShape) -> bool:
    is_known = a.width == a.value_width and a.width in _VECTOR_WIDTHS
    return a.queries <= min(_FEW_QUERIES, a.keys) and is_known


ATTENTIONS = (
    Kernel("fused", 1, _is_fused),
    Kernel("fused, few queries", 1, _is_vector),
    Kernel("unfused", 4, lambda _: True),  # scale, product, softmax, product
)
"""Likewise; unfused, the matrix of scores is written out."""


def kernel_of(node: Node) -> Kernel:
    """The kernels of a node "Convolution" or "scaled_dot_product_attention"."""
    if node.name == "Convolution":
        return _first(CONVOLUTIONS, ConvolutionShape.of(node))
    return _first(ATTENTIONS, AttentionShape.of(node))


def convolution_kernel(shape: ConvolutionShape) -> Kernel:
    """The kernels of a convolution."""
    return _first(CONVOLUTIONS, shape)


def attention_kernel(shape: AttentionShape) -> Kernel:
    """The kernels of an attention."""
    return _first(ATTENTIONS, shape)


def _first(table: tuple[Kernel, ...], shape: ConvolutionShape | AttentionShape) -> Kernel:
    return next(kernel for kernel in table if kernel.takes(shape))
