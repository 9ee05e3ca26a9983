"""The graph of a function: arrays by shape and precision, and the operations between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array of a graph: its name there, unique, its shape and precision."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        return self.size * self.dtype.size


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: MLX's name of the primitive, or of the kernel that `mx.fast` has for it.

    A function that is compiled where it stands (`ipa_mlx.networks.layers.fused`) is one node too,
    "Compiled". `arguments` are the primitive's own, as MLX tells them; a kernel's are its keywords.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """A function's graph: nodes in an order in which each comes after those it needs.

    Attributes:
        inputs: The arrays that the function was given, in order.
        weights: The parameters of the module, by path; those that it does not use too.
        constants: Arrays with values in the graph.
        outputs: What it gives.
        nodes: Those that the outputs need, no others.
        evaluations: What is evaluated on the way, in order (`ipa_mlx.device.evaluate`).
    """

    inputs: tuple[Tensor, ...]
    weights: Mapping[str, Tensor]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    evaluations: tuple[tuple[Tensor, ...], ...] = ()
