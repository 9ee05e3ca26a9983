"""Tracing: a function's graph as MLX records it, with nothing computed and no memory for weights.

`mx.export_function` tells every primitive of a function's graph. What is one kernel on a GPU falls
apart on a machine without one (`mx.fast`, compiled functions), so there each call is put into the
graph as one node that cannot be mistaken: `mx.depends` on a number that says which call it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers import activations
from mlx.utils import tree_flatten, tree_unflatten

from ..device import COMPILED_KERNEL, SAME, Device, traced_by, tracer, writing_for
from .fusion import fused
from .nodes import Graph, Node, Tensor

F = TypeVar("F", bound=Callable[..., Any])

FAST = ("layer_norm", "rms_norm", "rope", "scaled_dot_product_attention")
"""Functions of `mx.fast` with a kernel on every GPU; attention's differ by shape."""

COMPILED = ("gelu", "gelu_approx", "gelu_fast_approx", "sigmoid", "silu")
"""Functions of `mlx.nn` that are compiled where they stand."""

_MARK = "Depends"
_ARRAYS = (mx.array, list, tuple)


def hollow(module: nn.Module, dtype: mx.Dtype) -> None:
    """Give a module weights of a precision that take no memory: every one is a single zero.

    Packed weights of quantised layers stay whole numbers.
    """
    module.update(
        tree_unflatten(
            [
                (name, _hollow(a, dtype if mx.issubdtype(a.dtype, mx.floating) else a.dtype))
                for name, a in tree_flatten(module.parameters())
            ]
        )
    )


def like(shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """An array of a shape and precision that takes no memory, to be traced with."""
    return mx.broadcast_to(mx.array(0, dtype), tuple(shape))


def trace(
    function: Callable[..., Any],
    *arrays: mx.array,
    on: Device = Device.METAL,
    module: nn.Module | None = None,
    compiled: bool = False,
) -> Graph:
    """The graph of a function as it is written for a device.

    MLX simplifies what it exports as `mx.compile` does: an operation that is done twice on the very
    same arrays is there once. So give as arguments whatever differs in a run.

    Args:
        function: Of arrays; what it gives is a tree of arrays. It is called once, and must not
            evaluate (layers that do use `ipa_mlx.device.evaluate`).
        arrays: Its arguments, of which shapes and precisions count; see `like`.
        on: The device, whose machine need not be at hand.
        module: Its parameters become the graph's `weights`; see `hollow`. Any other module's would
            be traced to where they come from.
        compiled: The whole function is, by `mx.compile`: all its chains of elementwise operations
            are fused, and those of functions in it with their surroundings.
    """
    parameters = tree_flatten(module.parameters()) if module is not None else []
    record, calls = _Record(), _Calls((COMPILED_KERNEL, SAME) if compiled else ())

    def called(*given: mx.array) -> list[mx.array]:
        own = given[len(arrays) :]
        if module is not None:
            names = (name for name, _ in parameters)
            module.update(tree_unflatten(list(zip(names, own, strict=True))))
        found = [array for _, array in tree_flatten(function(*given[: len(arrays)]))]
        return [*found, *(array for group in calls.evaluations for array in group)]

    with ExitStack() as stack:
        stack.enter_context(writing_for(on))
        stack.enter_context(traced_by(calls))
        if on.is_gpu:
            stack.enter_context(_noted())
        mx.export_function(record.take, called, *arrays, *(a for _, a in parameters))
    if module is not None:  # or it would keep the arrays of the trace
        module.update(tree_unflatten(parameters))
    inputs, own = record.inputs[: len(arrays)], record.inputs[len(arrays) :]
    weights = {name: tensor for (name, _), tensor in zip(parameters, own, strict=True)}
    graph = record.graph(inputs, weights, calls)
    return fused(graph) if compiled else graph


class _Calls:
    """The calls of kernels in one trace, by the number that marks each."""

    def __init__(self, opened: Sequence[str]) -> None:
        self.opened = opened  # names of kernels that are not noted, but looked into
        self.noted: list[tuple[str, tuple[Any, ...]]] = []
        self.evaluations: list[tuple[mx.array, ...]] = []

    def evaluated(self, arrays: Sequence[mx.array]) -> None:
        """See `ipa_mlx.device.Tracer`."""
        self.evaluations.append(tuple(arrays))

    def kernel(self, name: str, function: F) -> F:
        """See `ipa_mlx.device.Tracer`."""
        if name in self.opened:
            return function

        @functools.wraps(function)
        def noted(*given: Any, **options: Any) -> Any:
            result = function(*given, **options)  # for its shape; the graph drops what it did
            needed = [a for _, a in tree_flatten([*given, *options.values()]) if _is_array(a)]
            plain = {key: value for key, value in options.items() if not isinstance(value, _ARRAYS)}
            outputs = list(result) if isinstance(result, list | tuple) else [result]
            mark = mx.array(len(self.noted), mx.int32)
            self.noted.append((name, (len(outputs), *plain.items())))
            made = mx.depends([like(a.shape, a.dtype) for a in outputs], [*needed, mark])
            return made if isinstance(result, list | tuple) else made[0]

        return cast("F", noted)


def _is_array(value: Any) -> bool:
    return isinstance(value, mx.array)


class _Record:
    """What `mx.export_function` tells."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.constants: dict[str, mx.array] = {}
        self.primitives: list[Node] = []
        self._known: dict[str, Tensor] = {}

    def take(self, told: Mapping[str, Any]) -> None:
        """The callback."""
        kind = told["type"]
        if kind in ("inputs", "outputs"):
            setattr(self, kind, list(map(self._tensor, told[kind])))
        elif kind == "constants":
            self.constants = dict(told["constants"])
        elif kind == "primitive":
            parts = (tuple(map(self._tensor, told[part])) for part in ("inputs", "outputs"))
            self.primitives.append(Node(told["name"], *parts, tuple(told["arguments"])))

    def _tensor(self, told: tuple[str, Sequence[int], mx.Dtype]) -> Tensor:
        """One of each, however often it is told."""
        found = self._known.get(told[0])
        if found is None:
            name, shape, dtype = told
            found = self._known[name] = Tensor(name, tuple(shape), dtype)
        return found

    def graph(self, inputs: list[Tensor], weights: dict[str, Tensor], calls: _Calls) -> Graph:
        """The graph, with the noted calls as nodes, and nothing that only they needed."""
        groups = list(self._evaluations(calls))
        marked = [self._unmarked(node, calls) for node in self.primitives]
        needed = {tensor.name for group in (self.outputs, *groups) for tensor in group}
        kept: list[Node] = []
        for node in reversed(marked):
            if any(tensor.name in needed for tensor in node.outputs):
                needed |= {tensor.name for tensor in node.inputs}
                kept.append(node)
        constants = (Tensor(n, tuple(a.shape), a.dtype) for n, a in self.constants.items())
        return Graph(
            tuple(inputs),
            weights,
            tuple(tensor for tensor in constants if tensor.name in needed),
            tuple(self.outputs),
            tuple(reversed(kept)),
            tuple(groups),
        )

    def _evaluations(self, calls: _Calls) -> Iterator[tuple[Tensor, ...]]:
        """The noted evaluations, which come after the outputs, and are no longer among them."""
        place = len(self.outputs) - sum(map(len, calls.evaluations))
        told, self.outputs = self.outputs[place:], self.outputs[:place]
        for group in calls.evaluations:
            yield tuple(told[: len(group)])
            told = told[len(group) :]

    def _unmarked(self, node: Node, calls: _Calls) -> Node:
        if node.name != _MARK:
            return node
        name, (count, *arguments) = calls.noted[int(self.constants[node.inputs[-1].name].item())]
        return Node(name, node.inputs[count:-1], node.outputs, tuple(arguments))


def _hollow(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return like(array.shape, dtype)


@contextmanager
def _noted() -> Iterator[None]:
    """A context in which MLX's own functions with one kernel are noted by this thread's tracer.

    Another thread may run a network meanwhile: without a tracer each is what it always was.
    """
    with ExitStack() as stack:
        for place, names in ((mx.fast, FAST), (activations, COMPILED), (nn, COMPILED)):
            for name in names:
                original = getattr(place, name)
                stack.callback(setattr, place, name, original)
                setattr(place, name, _asking(_kernel_name(place, name), original))
        yield


def _kernel_name(place: Any, name: str) -> str:
    return name if place is mx.fast else COMPILED_KERNEL


def _asking(name: str, original: F) -> F:
    @functools.wraps(original)
    def asked(*given: Any, **options: Any) -> Any:
        who = tracer()
        return (
            original(*given, **options)
            if who is None
            else who.kernel(name, original)(*given, **options)
        )

    return cast("F", asked)
