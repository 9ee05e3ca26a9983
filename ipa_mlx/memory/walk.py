"""A walk through a graph that counts bytes as MLX's allocator does while it evaluates."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..device import SAME
from ..graph.layouts import rows
from ..graph.nodes import Graph, Node, Tensor
from .machines import KERNELS, Machine
from .operands import Operand, places
from .order import order

_SPARE = 16384  # bytes that an output may leave empty in memory that it takes over


@dataclass(eq=False, slots=True)
class _Buffer:
    """A piece of memory; `holders` counts the arrays in it, and the kernels that wait for it."""

    nbytes: int
    holders: int = 0


@dataclass(eq=False, slots=True)
class _Array:
    """An array that has been made: what it lies in, how, and whether the caller holds it."""

    buffer: _Buffer
    strides: tuple[int, ...]
    is_held: bool = False


@dataclass(slots=True)
class _Task:
    """Kernels that wait together, and what they keep in memory until they have run."""

    kernels: int = 0
    read: int = 0
    kept: list[_Buffer] = field(default_factory=list)


def peak(graph: Graph, machine: Machine) -> int:
    """The most bytes at any moment while a graph is evaluated, beside its inputs and weights.

    What is evaluated on the way (`Graph.evaluations`) is, and everything that was computed is given
    back when nothing of the graph needs it any more.
    """
    walk = _Walk(graph, machine)
    for roots in graph.evaluations:
        walk.evaluate(roots)
        walk.let_go(roots)
    walk.evaluate(graph.outputs)
    return walk.peak


class _Walk:
    def __init__(self, graph: Graph, machine: Machine) -> None:
        self.machine = machine
        self.makers = {tensor.name: node for node in graph.nodes for tensor in node.outputs}
        self.readers = Counter(t.name for node in graph.nodes for t in node.inputs)
        for roots in (*graph.evaluations, graph.outputs):
            self.readers.update(tensor.name for tensor in roots)
        given = (*graph.inputs, *graph.weights.values(), *graph.constants)
        self.arrays = {t.name: _Array(_Buffer(0, 2), rows(t.shape), is_held=True) for t in given}
        self.active = self.peak = 0
        self.waiting: deque[_Task] = deque()
        self.task = _Task()
        self.read_broadcasts: set[str] = set()
        is_repeated = machine.counts_ends  # a GPU's task has room for many more
        made = (node.outputs[0].name for node in graph.nodes if node.name == "Broadcast")
        self.broadcasts = frozenset(made if is_repeated else ())

    def evaluate(self, roots: Sequence[Tensor]) -> None:
        """Run what some arrays need, to the end."""
        for node in order(roots, self.makers, self.arrays):
            self._run(node)
        self._end_task()
        while self.waiting:
            self._wait()

    def let_go(self, arrays: Sequence[Tensor]) -> None:
        """Let arrays go that were evaluated, unless something needs them yet."""
        for tensor in arrays:
            self._read(tensor)

    def _run(self, node: Node) -> None:
        operands = [self._operand(tensor) for tensor in node.inputs]
        found = places(node, operands)
        for tensor, place in zip(node.outputs, found, strict=True):
            within = None if place.within is None else self._buffer(node.inputs[place.within])
            buffer = within if within is not None else self._allocated(tensor.nbytes)
            buffer.holders += 1
            self.arrays[tensor.name] = _Array(buffer, place.strides)
        extra = [self._allocated(nbytes) for nbytes in self.machine.extra(node, operands)]
        is_view = all(place.is_view for place in found)
        if node.name != SAME:
            self._enqueue(node, extra, is_view=is_view)
        for tensor in node.inputs:
            self._read(tensor)
        for tensor in node.outputs:
            if not self.readers[tensor.name]:
                self._leave(self.arrays[tensor.name].buffer)

    def _operand(self, tensor: Tensor) -> Operand:
        array = self.arrays[tensor.name]
        buffer = array.buffer
        alone = self.readers[tensor.name] == 1 and buffer.holders == 1 and not array.is_held
        fits = alone and buffer.nbytes <= tensor.nbytes + _SPARE
        return Operand(tensor, array.strides, is_free=fits)

    def _buffer(self, tensor: Tensor) -> _Buffer:
        return self.arrays[tensor.name].buffer

    def _allocated(self, nbytes: int) -> _Buffer:
        self.active += nbytes
        self.peak = max(self.peak, self.active)
        return _Buffer(nbytes)

    def _leave(self, buffer: _Buffer) -> None:
        buffer.holders -= 1
        if not buffer.holders:
            self.active -= buffer.nbytes

    def _read(self, tensor: Tensor) -> None:
        """Something that waited for an array has been put into the queue."""
        self.readers[tensor.name] -= 1
        if not self.readers[tensor.name] and not self.arrays[tensor.name].is_held:
            self._leave(self.arrays[tensor.name].buffer)

    def _enqueue(self, node: Node, extra: list[_Buffer], *, is_view: bool) -> None:
        """Put a node's kernels into the queue; what they touch stays until they have run."""
        first = self._buffer(node.outputs[0])
        touched = {id(self._buffer(t)): self._buffer(t) for t in (*node.inputs, *node.outputs[1:])}
        touched.pop(id(first), None)
        kept = [*touched.values(), *extra]
        for buffer in kept:
            buffer.holders += 1
        kernels = 0 if is_view else KERNELS.get(node.name, 1) + len(extra)
        if node.name == "Concatenate":
            kernels = len(node.inputs)
        for _ in range(kernels + self._repeats(node)):
            self._count(1)
        self.task.kept += kept
        if kernels and self.machine.most[1]:
            self.task.read += sum(tensor.nbytes for tensor in node.inputs)
        self._count(int(self.machine.counts_ends))

    def _repeats(self, node: Node) -> int:
        """The broadcasts that a trace merges: in a run, each reader has its own."""
        made = {t.name for t in node.inputs if t.name in self.broadcasts}
        if not made:
            return 0
        repeated = made & self.read_broadcasts
        self.read_broadcasts |= made
        return len(repeated)

    def _count(self, kernels: int) -> None:
        """Count kernels into the task; a full one waits, and for the oldest if there are many."""
        self.task.kernels += kernels
        most, most_read = self.machine.most
        if self.task.kernels >= most or 0 < most_read <= self.task.read:
            self._end_task()
            while len(self.waiting) > self.machine.tasks:
                self._wait()

    def _end_task(self) -> None:
        self.waiting.append(self.task)
        self.task = _Task()

    def _wait(self) -> None:
        for buffer in self.waiting.popleft().kept:
            self._leave(buffer)
