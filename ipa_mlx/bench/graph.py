"""What a step asks of a GPU: kernels by kind, and the classes that MLX dispatches to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ipa.model.unet import UNetSpec
from ipa_mlx.graph.dispatch import kernel_of
from ipa_mlx.graph.kernels import by_kind, launches
from ipa_mlx.graph.steps import StepShape, step_graph
from ipa_mlx.networks.weights import DTYPES

_DISPATCHED = {"Convolution": "convolutions", "scaled_dot_product_attention": "attentions"}


def kernels(
    spec: UNetSpec, size: tuple[int, int, int], prompts: Sequence[int], dtype: str
) -> dict[str, dict[str, int]]:
    """Kernels of one guided step on Metal, counted by MLX's rules; nothing is run.

    Args:
        spec: The UNet.
        size: Pictures, height and width of the latents.
        prompts: Tokens of each image prompt.
        dtype: The precision.

    Returns:
        `kernels` by kind; `convolutions` and `attentions` by the class that MLX dispatches them to.
    """
    pictures, height, width = size
    shape = StepShape(
        height=height,
        width=width,
        pictures=pictures,
        prompts=tuple(prompts),
        dtype=DTYPES[dtype],
    )
    graph = step_graph(spec, shape)
    found = {"kernels": by_kind(launches(graph))}
    found |= {what: Counter[str]() for what in _DISPATCHED.values()}
    for node in graph.nodes:
        if node.name in _DISPATCHED:
            found[_DISPATCHED[node.name]][kernel_of(node).name] += 1
    return {what: dict(counts.most_common()) for what, counts in found.items()}
