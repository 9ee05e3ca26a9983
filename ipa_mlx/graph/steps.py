"""The graph of one evaluation of a UNet, from its spec alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from ipa.model.unet import UNetSpec

from ..compiled import CompiledUNet
from ..conditioning import Conditioning
from ..device import Device, unevaluated, writing_for
from ..networks.attention import padded_width
from ..networks.context import KeyValue
from ..networks.unet import UNet
from ..prediction import Network, predict
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
    then what SDXL adds to the timestep. `compiled`: as a run on a GPU has it.
    """
    unet = _unet(spec, shape)
    with writing_for(on):
        given = list(_given(unet, shape))

    def step(x: mx.array, *arrays: mx.array) -> mx.array:
        conditioning = _conditioning(unet, shape, arrays)
        return predict(Network(unet), x, 501.0, conditioning, _scales(unet, shape), None)

    x = like(_latents(spec, shape), shape.dtype)
    return trace(step, x, *given, on=on, module=unet, compiled=compiled)


def stepper(spec: UNetSpec, shape: StepShape, *, compiled: bool) -> Callable[[], mx.array]:
    """A function that builds a step's graph as a run does, and computes nothing: to time Python.

    Where `mx.fast` has no kernels, MLX builds their many parts in its own code, which takes longer.
    """
    unet = _unet(spec, shape)
    conditioning = _conditioning(unet, shape, list(_given(unet, shape)))
    x, scales = like(_latents(spec, shape), shape.dtype), _scales(unet, shape)
    evaluation = partial(CompiledUNet(), unet) if compiled else None
    timesteps = itertools.cycle(range(1000))

    def step() -> mx.array:
        timestep = float(next(timesteps))
        with unevaluated():
            return predict(Network(unet, evaluation), x, timestep, conditioning, scales, None)

    return step


def _unet(spec: UNetSpec, shape: StepShape) -> UNet:
    unet = UNet(spec)
    hollow(unet, shape.dtype)
    return unet


def _latents(spec: UNetSpec, shape: StepShape) -> tuple[int, ...]:
    return (shape.pictures, shape.height, shape.width, spec.in_channels)


def _scales(unet: UNet, shape: StepShape) -> list[list[float]]:
    return [[0.7] * len(unet.cross_attentions) for _ in shape.prompts]


def _given(unet: UNet, shape: StepShape) -> Iterator[mx.array]:
    """Keys and values, and what SDXL adds, in shape and precision alone."""
    for tokens in (TEXT_TOKENS, *shape.prompts):
        for site in unet.cross_attentions:
            size = (shape.rows, site.heads, tokens, padded_width(site.width))
            yield from (like(size, shape.dtype), like(size, shape.dtype))
    if unet.spec.addition is not None:
        yield like((shape.rows, unet.spec.time_width), shape.dtype)


def _conditioning(unet: UNet, shape: StepShape, given: Sequence[mx.array]) -> Conditioning:
    arrays = iter(given)
    text, *images = (
        tuple(KeyValue(next(arrays), next(arrays), width=a.width) for a in unet.cross_attentions)
        for _ in (TEXT_TOKENS, *shape.prompts)
    )
    return Conditioning(
        shape.rows,
        text,
        tuple(images),
        added=next(arrays, None),
        pictures=(1,) * len(images),
    )
