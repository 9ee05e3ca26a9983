"""The device that networks are written for: the machine's own, or another one to look at its graph.

MLX's kernels differ by device, so a few layers here have a form for each. They ask `device()`;
`writing_for` answers with another device, so that a graph can be traced, and a form tested, on a
machine that could not run it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Protocol, TypeVar

import mlx.core as mx

F = TypeVar("F", bound=Callable[..., mx.array])

COMPILED_KERNEL = "Compiled"
"""The name of the kernel of an elementwise function that is compiled where it stands."""


class Device(Enum):
    """The devices of MLX that have kernels of their own."""

    CPU = "cpu"
    METAL = "metal"
    CUDA = "cuda"

    @property
    def is_gpu(self) -> bool:
        """Whether elementwise functions are compiled, and `mx.fast` has kernels."""
        return self is not Device.CPU


class Tracer(Protocol):
    """The protocol of what notes calls of one kernel, and evaluations, while a graph is traced."""

    def kernel(self, name: str, function: F) -> F:
        """The function, its call noted as one node of that name."""

    def evaluated(self, arrays: Sequence[mx.array]) -> None:
        """Note that these would be evaluated now."""


SAME = "Same"
"""The name of a node that does nothing, of `anew`."""

_chosen: ContextVar[Device | None] = ContextVar("chosen", default=None)
_tracer: ContextVar[Tracer | None] = ContextVar("tracer", default=None)
_evaluates: ContextVar[bool] = ContextVar("evaluates", default=True)


def device() -> Device:
    """The device that networks are to be written for."""
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    if mx.default_device() != mx.gpu:
        return Device.CPU
    return Device.METAL if mx.metal.is_available() else Device.CUDA


def tracer() -> Tracer | None:
    """What traces the graph in this thread; None while networks run."""
    return _tracer.get()


@contextmanager
def writing_for(other: Device) -> Iterator[None]:
    """A context in which networks are written for a device, in this thread alone."""
    token = _chosen.set(other)
    try:
        yield
    finally:
        _chosen.reset(token)


@contextmanager
def traced_by(who: Tracer) -> Iterator[None]:
    """A context in which nothing is evaluated, and kernels are noted, in this thread alone."""
    token = _tracer.set(who)
    try:
        yield
    finally:
        _tracer.reset(token)


@contextmanager
def unevaluated() -> Iterator[None]:
    """A context in which networks evaluate nothing by themselves, in this thread alone."""
    token = _evaluates.set(False)
    try:
        yield
    finally:
        _evaluates.reset(token)


def evaluate(*arrays: mx.array) -> None:
    """Evaluate arrays in the middle of a network, for memory; not while its graph is traced."""
    who = _tracer.get()
    if who is not None:
        who.evaluated(arrays)
    elif _evaluates.get():
        mx.eval(*arrays)


def anew(array: mx.array) -> mx.array:
    """The array itself; while a graph is traced, one that is not merged with what it was before.

    MLX merges like operations on the same array in what it exports, and does not when it runs them.
    """
    who = _tracer.get()
    return array if who is None else who.kernel(SAME, _itself)(array)


def _itself(array: mx.array) -> mx.array:
    return array


def contiguous(array: mx.array) -> mx.array:
    """`mx.contiguous`, which MLX does not tell of a graph: noted while one is traced."""
    who = _tracer.get()
    function = mx.contiguous if who is None else who.kernel("Contiguous", mx.contiguous)
    return function(array)
