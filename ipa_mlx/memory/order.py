"""The order in which MLX runs the nodes of a graph.

Source: MLX 0.32, `eval_impl` (mlx/transforms.cpp): breadth first from what is evaluated, with a
limit on how many nodes wait side by side, then backwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..graph.nodes import Node, Tensor

_WIDTH = 20  # nodes side by side (MLX_BFS_MAX_WIDTH)


def order(roots: Sequence[Tensor], makers: Mapping[str, Node], made: Collection[str]) -> list[Node]:
    """The nodes that are needed for some arrays, as they run.

    Args:
        roots: What is evaluated.
        makers: The node that makes each array, by the array's name.
        made: The names of arrays that are there already.
    """
    waiting = _readers(roots, makers, made)
    queue: list[Sequence[Tensor]] = [roots]
    found: list[Node] = []
    later: list[tuple[Sequence[Tensor], int]] = []
    place = 0
    while waiting and (place < len(queue) or later):
        if place < len(queue):
            inputs, first = queue[place], 0
            place += 1
        else:
            inputs, first = later.pop()
        for rank in range(first, len(inputs)):
            tensor = inputs[rank]
            if tensor.name in made:
                continue
            if len(queue) - place >= _WIDTH:
                later.append((inputs, rank))
                break
            node = makers[tensor.name]
            waiting[id(node)] -= 1
            if not waiting[id(node)]:
                del waiting[id(node)]
                queue.append(node.inputs)
                found.append(node)
    return found[::-1]


def _readers(
    roots: Sequence[Tensor], makers: Mapping[str, Node], made: Collection[str]
) -> dict[int, int]:
    """How often each needed node's outputs are read, by the node's identity."""
    counts: dict[int, int] = {}
    waiting = [roots]
    while waiting:
        for tensor in waiting.pop():
            if tensor.name in made:
                continue
            node = makers[tensor.name]
            if id(node) not in counts:
                waiting.append(node.inputs)
            counts[id(node)] = counts.get(id(node), 0) + 1
    return counts
