"""How arrays lie in memory, by strides: where MLX has to copy one to give it another shape.

Source: MLX 0.32, `prepare_reshape` (mlx/backend/common) and the outputs of its Metal kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..device import SAME
from .nodes import Node

Strides: TypeAlias = tuple[int, ...]

RESHAPES = frozenset({"Reshape", "Flatten", "Unflatten"})


def rows(shape: Sequence[int]) -> Strides:
    """The strides of an array whose rows lie one after another, in elements."""
    found, step = [], 1
    for size in reversed(shape):
        found.append(step)
        step *= size
    return tuple(reversed(found))


def are_rows(shape: Sequence[int], strides: Strides) -> bool:
    """Whether the rows lie one after another; sides of 1 do not matter."""
    return all(
        size == 1 or found == step
        for size, found, step in zip(shape, strides, rows(shape), strict=True)
    )


def is_dense(shape: Sequence[int], strides: Strides) -> bool:
    """Whether the elements fill a block of memory, in any order."""
    step = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size != 1:
            if stride != step:
                return False
            step *= size
    return True


def viewed(node: Node, strides: Strides) -> tuple[Strides, ...] | None:
    """The strides of what a view gives; None where a node is no view of its first input."""
    shape = node.inputs[0].shape if node.inputs else ()
    made = [tensor.shape for tensor in node.outputs]
    if node.name == "Broadcast":
        new = len(made[0]) - len(shape)
        steps = [0 if s != made[0][new + i] else strides[i] for i, s in enumerate(shape)]
        return ((0,) * new + tuple(steps),)
    if node.name == "Transpose":
        return (tuple(strides[axis] for axis in node.arguments[0]),)
    if node.name == "AsStrided":
        return (tuple(node.arguments[1]),)
    if node.name == "Slice":
        return (tuple(a * b for a, b in zip(strides, node.arguments[2], strict=True)),)
    if node.name in ("Split", "Copy", "StopGradient", "Depends", SAME):
        return (strides,) * len(made)
    if node.name == "Squeeze":
        gone = {axis % len(shape) for axis in node.arguments[0]}
        return (tuple(s for axis, s in enumerate(strides) if axis not in gone),)
    if node.name == "ExpandDims":
        steps = list(strides)
        for axis in sorted(axis % len(made[0]) for axis in node.arguments[0]):
            steps.insert(axis, 1)
        return (tuple(steps),)
    return None


def reshaped(shape: Sequence[int], strides: Strides, made: Sequence[int]) -> Strides | None:
    """The strides of a reshaped view, or None where the array has to be copied."""
    if are_rows(shape, strides):
        return rows(made)
    runs = _runs(shape, strides)
    found: list[int] = []
    place = 0
    for size in made:
        if place < len(runs) and runs[place][0] % size == 0:
            left, step = runs[place][0] // size, runs[place][1]
            found.append(left * step)
            runs[place] = (left, step)
            place += left <= 1
        elif size == 1:
            found.append(found[-1] if found else 1)
        else:
            return None
    return tuple(found)


def _runs(shape: Sequence[int], strides: Strides) -> list[tuple[int, int]]:
    """Neighbouring axes that are one, as (size, stride)."""
    found: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return found
