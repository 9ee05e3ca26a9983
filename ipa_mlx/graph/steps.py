"""The graph of one evaluation of a UNet, from its spec alone."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from ipa.model.unet import UNetSpec

from ..conditioning import Conditioning
from ..device import Device, writing_for
from ..networks.attention import padded_width
from ..networks.context import KeyValue
from ..networks.unet import UNet
from ..prediction import predict
from .nodes import Graph
from .tracing import hollow, like, trace

TEXT_TOKENS = 77


@dataclass(frozen=True, slots=True)
class StepShape:
    """What the graph of a step depends on.

    Attributes:
        height: Of the latents.
        width: Of the latents.
        pictures: Made at once.
        rows: 2 if guided, else 1.
        prompts: The tokens of every image prompt: 4 of a base adapter, 16 of a plus one.
        dtype: The precision.
    """

    height: int = 64
    width: int = 64
    pictures: int = 1
    rows: int = 2
    prompts: tuple[int, ...] = ()
    dtype: mx.Dtype = mx.float16


def step_graph(
    spec: UNetSpec, shape: StepShape, on: Device = Device.METAL, *, compiled: bool = False
) -> Graph:
    """The graph of `prediction.predict`: scaled latents to the prediction in float32.

    Its inputs are the latents, then keys and values of the text and of each image prompt by site,
    then what SDXL adds to the timestep.
    """
    unet = UNet(spec)
    hollow(unet, shape.dtype)
    sites, rows = unet.cross_attentions, shape.rows
    with writing_for(on):
        pairs = [
            like((rows, site.heads, tokens, padded_width(site.width)), shape.dtype)
            for tokens in (TEXT_TOKENS, *shape.prompts)
            for site in sites
            for _ in ("keys", "values")
        ]
    added = [] if spec.addition is None else [like((rows, spec.time_width), shape.dtype)]
    scales = [[0.7] * len(sites) for _ in shape.prompts]
    size = (shape.pictures, shape.height, shape.width, spec.in_channels)

    def step(x: mx.array, *given: mx.array) -> mx.array:
        arrays = iter(given)
        text, *images = (
            tuple(KeyValue(next(arrays), next(arrays), width=site.width) for site in sites)
            for _ in (TEXT_TOKENS, *shape.prompts)
        )
        pictures = (1,) * len(images)
        conditioning = Conditioning(
            rows, text, tuple(images), added=next(arrays, None), pictures=pictures
        )
        return predict(unet, x, 501.0, conditioning, scales, None)

    return trace(
        step, like(size, shape.dtype), *pairs, *added, on=on, module=unet, compiled=compiled
    )
