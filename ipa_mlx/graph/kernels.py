"""The kernels that a graph launches on Metal, counted by a table.

An operation is a node that launches anything; the launches of one are MLX 0.32's: attention that is
not fused is four, Winograd six, a border of zeros two (fill, copy), a concatenation one a part.
Views launch nothing. A reshape is a view where the strides allow it, else one copy. What a kernel
copies of an input that lies wrong for it counts as a copy too. Large sums may take a second launch,
which is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .dispatch import kernel_of
from .fusion import ELEMENTWISE, UNARY
from .layouts import RESHAPES, Strides, are_rows, is_dense, reshaped, rows, viewed
from .nodes import Graph, Node, Tensor

KINDS = {
    "Convolution": "convolution",
    "Matmul": "matmul",
    "AddMM": "matmul",
    "QuantizedMatmul": "matmul",
    "scaled_dot_product_attention": "attention",
    "layer_norm": "norm",
    "rms_norm": "norm",
    "Softmax": "softmax",
    "Reduce": "sum",
    "AsType": "cast",
    "Pad": "zeros around",
    "Concatenate": "concatenation",
    "Compiled": "elementwise",
    **dict.fromkeys(ELEMENTWISE - {"AsType"}, "elementwise"),
}
"""Kinds of operations; what is not here is "other"."""

COPY = "copy"


@dataclass(frozen=True, slots=True)
class Launch:
    """What one node launches: its kind, and how many kernels."""

    kind: str
    count: int
    node: Node


def launches(graph: Graph) -> tuple[Launch, ...]:
    """All that a graph launches, in order."""
    return tuple(_Walk().over(graph.nodes))


def by_kind(found: Iterable[Launch]) -> Counter[str]:
    """The number of kernels of each kind."""
    counts: Counter[str] = Counter()
    for launch in found:
        counts[launch.kind] += launch.count
    return counts


class _Walk:
    """A walk through the nodes that knows how every array lies."""

    def __init__(self) -> None:
        self.strides: dict[str, Strides] = {}

    def over(self, nodes: Iterable[Node]) -> Iterable[Launch]:
        for node in nodes:
            found = self._viewed(node)
            if found is None:
                copies = self._copies(node)
                if copies:
                    yield Launch(COPY, copies, node)
                yield Launch(KINDS.get(node.name, "other"), _count(node), node)
                found = self._made(node)
            elif node.name in RESHAPES and not found[0]:
                yield Launch(COPY, 1, node)
                found = (rows(node.outputs[0].shape),)
            for tensor, strides in zip(node.outputs, found, strict=True):
                self.strides[tensor.name] = strides

    def _of(self, tensor: Tensor) -> Strides:
        return self.strides.get(tensor.name, rows(tensor.shape))

    def _viewed(self, node: Node) -> tuple[Strides, ...] | None:
        """The strides of a view's outputs, () for a reshape that copies; None of another node."""
        if not node.inputs:
            return None
        first = node.inputs[0]
        if node.name in RESHAPES:
            return (reshaped(first.shape, self._of(first), node.outputs[0].shape) or (),)
        if node.name == "Contiguous" and are_rows(first.shape, self._of(first)):
            return (self._of(first),)
        return viewed(node, self._of(first))

    def _copies(self, node: Node) -> int:
        """The inputs that a kernel copies, because it cannot read them as they lie."""
        pairs = [(t, self._of(t)) for t in node.inputs]
        if node.name in ("Matmul", "AddMM"):
            sides = pairs[-2:] if node.name == "Matmul" else pairs[:2]
            return sum(1 not in strides[-2:] for _, strides in sides)
        if node.name == "scaled_dot_product_attention":
            return sum(strides[-1] != 1 for _, strides in pairs[:3])
        if node.name in ("layer_norm", "rms_norm", "Softmax"):
            tensor, strides = pairs[0]
            return int(not (strides[-1] == 1 and is_dense(tensor.shape, strides)))
        if node.name == "Convolution":
            return sum(not are_rows(tensor.shape, strides) for tensor, strides in pairs)
        return 0

    def _made(self, node: Node) -> tuple[Strides, ...]:
        """How the outputs of a kernel lie: rows, but for those that keep their input's order."""
        shapes = [tensor.shape for tensor in node.outputs]
        if node.name == "scaled_dot_product_attention" and kernel_of(node).name == "fused":
            _, heads, length, width = shapes[0]
            return ((length * heads * width, width, heads * width, 1),)
        arrays = [t for t in node.inputs if t.size > 1]
        if len(arrays) == 1 and node.name in UNARY | ELEMENTWISE | {"layer_norm", "rms_norm"}:
            strides = self._of(arrays[0])
            if arrays[0].shape == shapes[0] and is_dense(shapes[0], strides):
                return (strides,)
        return tuple(map(rows, shapes))


def _count(node: Node) -> int:
    if node.name in ("Convolution", "scaled_dot_product_attention"):
        return kernel_of(node).launches
    if node.name == "Concatenate":
        return len(node.inputs)
    return 2 if node.name == "Pad" else 1
