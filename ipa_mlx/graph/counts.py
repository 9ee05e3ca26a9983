"""What a step asks of Metal, in numbers: kernels by kind, and the classes of its heavy ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .dispatch import ConvolutionShape, kernel_of
from .kernels import by_kind, launches
from .nodes import Graph

HEAVY = ("Convolution", "scaled_dot_product_attention")


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of one graph.

    Attributes:
        operations: Nodes that launch anything.
        kernels: Launches by kind, the most first.
        classes: Convolutions and attentions by MLX's class of kernels, "convolution: Winograd".
        shares: Of the convolutions' multiply-adds, by class.
    """

    operations: int
    kernels: Mapping[str, int]
    classes: Mapping[str, int]
    shares: Mapping[str, float]

    @property
    def launches(self) -> int:
        """All kernels together."""
        return sum(self.kernels.values())

    def record(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "operations": self.operations,
            "launches": self.launches,
            "kernels": dict(self.kernels),
            "classes": dict(self.classes),
            "shares": dict(self.shares),
        }


def counts(graph: Graph) -> Counts:
    """Count what a graph asks of Metal."""
    found = launches(graph)
    classes: Counter[str] = Counter()
    work: Counter[str] = Counter()
    for node in graph.nodes:
        if node.name not in HEAVY:
            continue
        kind, name = "attention", kernel_of(node).name
        if node.name == "Convolution":
            kind = "convolution"
            work[name] += ConvolutionShape.of(node).multiplications
        classes[f"{kind}: {name}"] += 1
    total = sum(work.values()) or 1
    return Counts(
        operations=len({id(launch.node) for launch in found}),
        kernels=dict(by_kind(found).most_common()),
        classes=dict(sorted(classes.items())),
        shares={name: amount / total for name, amount in work.most_common()},
    )
