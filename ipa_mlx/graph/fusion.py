"""What `mx.compile` fuses: chains of elementwise operations, each chain one kernel.

Source: `compile_fuse` of MLX 0.32 (mlx/compile.cpp). From the outputs backwards, an operation takes
in those that it needs as long as nobody else needs them, at most 11 deep and with fewer than 24
arrays; a broadcast is done twice rather than stop a chain. Tests hold this to MLX's own result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from .nodes import Graph, Node, Tensor

_UNARY = (
    "Abs ArcCos ArcCosh ArcSin ArcSinh ArcTan ArcTanh AsType BitwiseInvert Ceil Conjugate Cos Cosh "
    "Erf ErfInv Exp Expm1 Floor Imag Log Log1p LogicalNot Negative Real Remainder Round Sigmoid "
    "Sign Sin Sinh Sqrt Square Tan Tanh"
)
_BINARY = (
    "Add ArcTan2 BitwiseBinary Divide Equal Greater GreaterEqual Less LessEqual LogAddExp "
    "LogicalAnd LogicalOr Maximum Minimum Multiply NotEqual Power Subtract"
)
UNARY = frozenset(_UNARY.split(" "))
ELEMENTWISE = UNARY.union(_BINARY.split(" "), ["Select"])
_MOST_DEPTH = 11
_MOST_ARRAYS = 24


def fused(graph: Graph) -> Graph:
    """The graph as `mx.compile` makes it: chains are nodes "Compiled".

    A node's `arguments` are the names of the operations in it, in order.
    """
    return _Fusion(graph).run()


class _Fusion:
    """One pass over a graph. Nodes are known by the name of their first output."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.order = [_key(node) for node in graph.nodes]
        self.nodes = {_key(node): node for node in graph.nodes}
        self.outputs = {tensor.name for tensor in graph.outputs}
        self.users: dict[str, list[str]] = defaultdict(list)
        for node in graph.nodes:
            for tensor in node.inputs:
                self.users[tensor.name].append(_key(node))
        self.copies = 0

    def run(self) -> Graph:
        """Every node from the last to the first, unless one after it took it in."""
        done: set[str] = set()
        made: list[Node] = []
        for key in reversed(self.order):
            if key in done:
                continue
            node = self.nodes[key]
            chain = self._chain(node) if node.name in ELEMENTWISE else []
            if len(chain) <= 1:
                made.append(node)
                continue
            done |= set(chain)
            made.append(self._compiled(chain))
        return replace(self.graph, nodes=tuple(reversed(made)))

    def _chain(self, last: Node) -> list[str]:
        """The nodes that are fused into one, in the order in which they are computed."""
        taken: dict[str, None] = {}
        needed: set[str] = set()

        def take(tensor: Tensor, depth: int) -> None:
            key = tensor.name
            if key in taken:
                return
            if depth >= _MOST_DEPTH or not self._is_fusable(tensor, last.outputs[0].shape):
                needed.add(key)
                return
            if depth > 0 and any(user not in taken for user in self.users[key]):
                if self.nodes[key].name == "Broadcast" and len(needed) < _MOST_ARRAYS:
                    take(self._copied(key, taken), depth)
                else:
                    needed.add(key)
                return
            if key in self.outputs:
                needed.add(key)
            else:
                needed.discard(key)
            if len(needed) >= _MOST_ARRAYS:
                return
            taken[key] = None
            for place in range(len(self.nodes[key].inputs)):
                take(self.nodes[key].inputs[place], depth + 1)

        take(last.outputs[0], 0)
        return self._in_order(_key(last), taken)

    def _is_fusable(self, tensor: Tensor, shape: Sequence[int]) -> bool:
        node = self.nodes.get(tensor.name)
        if node is None or node.name not in ELEMENTWISE | {"Broadcast"}:
            return False
        return tensor.name not in self.outputs or tensor.shape == tuple(shape)

    def _copied(self, key: str, taken: dict[str, None]) -> Tensor:
        """A broadcast of one's own for the nodes of a chain."""
        self.copies += 1
        node = self.nodes[key]
        copy = replace(node.outputs[0], name=f"{key}'{self.copies}")
        self.nodes[copy.name] = replace(node, outputs=(copy,))
        self.users[copy.name] = [user for user in self.users[key] if user in taken]
        self.users[key] = [user for user in self.users[key] if user not in taken]
        for tensor in node.inputs:
            self.users[tensor.name].append(copy.name)
        for user in self.users[copy.name]:
            inputs = (copy if t.name == key else t for t in self.nodes[user].inputs)
            self.nodes[user] = replace(self.nodes[user], inputs=tuple(inputs))
        return copy

    def _in_order(self, last: str, taken: dict[str, None]) -> list[str]:
        found: dict[str, None] = {}

        def visit(key: str) -> None:
            if key in taken and key not in found:
                for tensor in self.nodes[key].inputs:
                    visit(tensor.name)
                found[key] = None

        visit(last)
        return list(found)

    def _compiled(self, chain: Sequence[str]) -> Node:
        nodes, inside = [self.nodes[key] for key in chain], set(chain)
        inputs = {t.name: t for node in nodes for t in node.inputs if t.name not in inside}
        outputs = [n.outputs[0] for n in nodes[:-1] if n.outputs[0].name in self.outputs]
        for key in chain[:-1]:
            self.users[key] = [user for user in self.users[key] if user not in inside]
        for name in inputs:
            self.users[name] = [user for user in self.users[name] if user not in inside]
            self.users[name].append(chain[-1])
        names = tuple(node.name for node in nodes)
        made = Node("Compiled", tuple(inputs.values()), (*outputs, nodes[-1].outputs[0]), names)
        self.nodes[chain[-1]] = made
        return made


def _key(node: Node) -> str:
    return node.outputs[0].name
