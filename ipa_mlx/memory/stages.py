"""The memory of each stage's work, from specs alone: its networks are traced without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ipa.backend.deep import DeepPart
from ipa.backend.text import Sizes, TextStates
from ipa.backend.tiling import Tile
from ipa.backend.vae_memory import StripSize, VaeUse
from ipa.backend.work import (
    ConditionWork,
    DenoiseWork,
    ImagesWork,
    TextWork,
    VaeWork,
    Work,
    WorkMemory,
)
from ipa.model.clip import ClipTextSpec
from ipa.model.quantization import Quantization
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa_convert import is_quantized

from ..adapters import ImageAdapter
from ..conditioning import Conditioning, text_pairs
from ..controls import ConditionedAdapter, ConditionedControl, summed
from ..device import device, evaluate
from ..graph.nodes import Graph
from ..graph.tracing import hollow, like, trace
from ..networks.clip import TextEncoder, VisionEncoder
from ..networks.context import Context, KeyValue
from ..networks.controlnet import ControlNet
from ..networks.t2i_adapter import T2IAdapter
from ..networks.unet import UNet
from ..networks.unet_down import DownHalf, added_conditioning
from ..networks.vae import Vae
from ..networks.weights import DTYPES
from ..text import encode_text
from ..vae_strips import StripWalk
from .machines import MACHINES
from .walk import peak

_FLOAT = mx.float32.size
_TIMESTEP = 501.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A model as far as its memory depends on it.

    `wide` says that its VAE computes in float32 whatever the precision, and `how` matrices are
    quantised.
    """

    unet: UNetSpec
    vae: VaeSpec
    texts: tuple[ClipTextSpec, ...]
    dtype: str
    how: Quantization | None = None
    wide: bool = False

    @property
    def precision(self) -> mx.Dtype:
        """The precision of its networks."""
        return DTYPES[self.dtype]


def work_memory(subject: Subject, work: Work) -> WorkMemory:
    """The memory of some work on this machine's device; what was asked once is kept."""
    return _work_memory(subject, work, device().value)


@lru_cache(maxsize=128)
def _work_memory(subject: Subject, work: Work, _device: str) -> WorkMemory:
    return _STAGES[type(work)](subject, work)


class _Networks(nn.Module):
    """Networks side by side, without weights."""

    def __init__(self, subject: Subject, dtype: mx.Dtype, **networks: Any) -> None:
        super().__init__()
        for name, network in networks.items():
            setattr(self, name, network)
        if subject.how is not None:
            _quantize(self, subject.how)
        hollow(self, dtype)


def _quantize(networks: nn.Module, how: Quantization) -> None:
    def is_one(path: str, layer: nn.Module) -> bool:
        name = f"{path}.weight".partition(".")[2].lstrip("0123456789.")
        return isinstance(layer, nn.Linear) and is_quantized(name, layer.weight.shape, how)

    nn.quantize(networks, how.group_size, how.bits, class_predicate=is_one)


def _counted(
    function: Callable[..., Any], arrays: Sequence[mx.array], networks: nn.Module, given: int = 0
) -> WorkMemory:
    """The memory of a function; `given` bytes of its arguments are its own."""
    graph = trace(function, *arrays, on=device(), module=networks)
    results = {tensor.name: tensor.nbytes for tensor in graph.outputs}
    most = peak(graph, MACHINES[device()])
    return WorkMemory(given + most, sum(results.values()))


def _text(subject: Subject, work: TextWork) -> WorkMemory:
    towers = [TextEncoder(spec) for spec in subject.texts]
    networks = _Networks(subject, subject.precision, towers=towers)
    ids = np.zeros((len(towers), work.chunks, work.tokens), np.int32)

    def run() -> list[mx.array]:
        first, second = (*networks.towers, None)[:2]
        found = encode_text(first, second, ids)
        return [found.states, *([] if found.pooled is None else [found.pooled])]

    return _counted(run, (), networks)


def _images(subject: Subject, work: ImagesWork) -> WorkMemory:
    """The tower's; the projector, after it, takes less than any tower."""
    results = 2 * work.tokens * work.adapter.context_width * subject.precision.size
    if work.encoder is None:
        return WorkMemory(2 * results, results)
    encoder, side, dtype = VisionEncoder(work.encoder), work.encoder.image_size, subject.precision
    networks = _Networks(subject, dtype, encoder=encoder)
    adapter = ImageAdapter(work.adapter, encoder, {}, {})
    pixels = like((work.pictures, side, side, work.encoder.channels), dtype)
    given = pixels.size * (_FLOAT + (0 if dtype == mx.float32 else dtype.size))

    def run(seen: mx.array) -> list[mx.array]:
        return [rows.astype(mx.float32) for rows in adapter.features(encoder, seen)]

    found = _counted(run, (pixels,), networks, given)
    return WorkMemory(max(found.peak, 2 * results), results)


def _condition(subject: Subject, work: ConditionWork) -> WorkMemory:
    unet, dtype = UNet(subject.unet), subject.precision
    nets = [_control(spec) for spec in work.controls]
    networks = _Networks(subject, dtype, unet=unet, nets=nets)
    sites, width = unet.cross_attentions, subject.unet.context_width
    tokens = [like((work.rows, n, width), dtype) for n in (work.text_tokens, *work.image_tokens)]
    # An adapter's own keys and values are matrices of the shape of the text's.
    matrices = [like((s.to_q.weight.shape[0], width), dtype) for s in sites for _ in "kv"]
    own = [matrix for _ in work.image_tokens for matrix in matrices]
    pixels = [like((1, work.height, work.width, _channels(net)), dtype) for net in nets]
    given = sum(2 * array.nbytes for array in pixels)

    def run(text: mx.array, *arrays: mx.array) -> list[mx.array]:
        count = len(work.image_tokens)
        prompts, rest = arrays[:count], iter(arrays[count:])
        made = list(_pairs(text_pairs(unet.cross_attentions, text, ())))
        for rows in prompts:
            for site in unet.cross_attentions:
                keys, values = (rows @ next(rest).T for _ in "kv")
                made += site.split(keys, values).arrays()
        for net, picture in zip(nets, rest, strict=True):
            made += _controlled(net, picture, text)
        return [*made, *_added(subject, unet, work.rows)]

    return _counted(run, (*tokens, *own, *pixels), networks, given)


def _controlled(net: ControlNet | T2IAdapter, picture: mx.array, text: mx.array) -> list[mx.array]:
    """What is made of a control once, evaluated before what follows."""
    if isinstance(net, T2IAdapter):
        made = list(net(picture))
    else:
        made = [net.embed(picture), *_pairs(text_pairs(net.cross_attentions, text, ()))]
    evaluate(*made)
    return made


def _added(subject: Subject, unet: DownHalf, rows: int) -> list[mx.array]:
    addition = subject.unet.addition
    if addition is None:
        return []
    pooled = mx.zeros((1, addition.pooled_width), subject.precision)
    sizes = Sizes(original_size=(64, 64), crops_coords_top_left=(0, 0), target_size=(64, 64))
    texts = [TextStates(None, pooled)] * rows
    found = added_conditioning(unet, texts, [sizes] * rows)
    return [] if found is None else [found]


def _pairs(pairs: Sequence[KeyValue]) -> list[mx.array]:
    return [array for pair in pairs for array in pair.arrays()]


def _control(spec: Any) -> ControlNet | T2IAdapter:
    return ControlNet(spec) if hasattr(spec, "conditioning_channels") else T2IAdapter(spec)


def _channels(net: ControlNet | T2IAdapter) -> int:
    spec = net.spec
    return getattr(spec, "conditioning_channels", None) or spec.in_channels


def _decode_or_encode(subject: Subject, work: VaeWork) -> WorkMemory:
    vae, dtype = Vae(subject.vae), mx.float32 if subject.wide else subject.precision
    networks = _Networks(subject, dtype, vae=vae)
    parts = VaeUse(work.memory, subject.vae).of_pixels(work.height, work.width)
    height, width, factor = work.height, work.width, subject.vae.scale_factor
    if isinstance(parts, Tile):
        height, width = min(height, parts.pixels), min(width, parts.pixels)
    walk = StripWalk(parts.numbers) if isinstance(parts, StripSize) else None
    if work.way == "decode":
        size = (1, height // factor, width // factor, subject.vae.latent_channels)
        whole, striped = vae.decode, "decode"
    else:
        size = (1, height, width, subject.vae.in_channels)
        whole, striped = vae.moments, "moments"

    def run(given: mx.array) -> mx.array:
        given = given.astype(dtype)
        made = whole(given) if walk is None else getattr(walk, striped)(vae, given)
        return made.astype(mx.float32)

    array = like(size, mx.float32)
    graph = trace(run, array, on=device(), module=networks)
    held = array.nbytes
    if subject.wide and subject.precision != mx.float32:
        held += _used(graph)
    return WorkMemory(held + peak(graph, MACHINES[device()]))


def _used(graph: Graph) -> int:
    """The bytes of the weights that a graph reads: a copy in float32 of each is kept."""
    read = {tensor.name for node in graph.nodes for tensor in node.inputs}
    return sum(tensor.nbytes for tensor in graph.weights.values() if tensor.name in read)


def _denoise(subject: Subject, work: DenoiseWork) -> WorkMemory:
    unet, dtype = UNet(subject.unet), subject.precision
    nets = [_control(spec) for spec in work.controls]
    networks = _Networks(subject, dtype, unet=unet, nets=nets)
    factor, rows = subject.vae.scale_factor, work.rows
    height, width = work.height // factor, work.width // factor
    latents = like((work.pictures, height, width, subject.vae.latent_channels), mx.float32)
    more = subject.unet.in_channels - subject.vae.latent_channels
    channels = [like((work.pictures, height, width, more), mx.float32)] if more > 0 else []
    given = _Given(subject, work, unet, nets, (height, width))
    deep = None if work.branch is None else DeepPart(work.branch)

    def run(x: mx.array, *arrays: mx.array) -> list[mx.array]:
        rest = iter(arrays)
        beside = [next(rest) for _ in channels]
        conditioning, controls = given.read(rest)
        x = x.astype(dtype)
        seen = mx.concatenate([x, *(a.astype(dtype) for a in beside)], axis=-1) if beside else x
        residuals = summed(controls, given.weights(controls), x, _TIMESTEP)
        context = conditioning.context([[0.7] * len(unet.cross_attentions)] * len(work.masked))
        output = unet(
            mx.concatenate([seen] * rows),
            _TIMESTEP,
            context,
            residuals.residuals,
            residuals.features,
            deep,
        )
        return [output.astype(mx.float32), *([] if deep is None else [deep.feature])]

    arrays = (latents, *channels, *given.arrays)
    found = _counted(run, arrays, networks, _STEP * latents.nbytes)
    earlier = found.results - rows * latents.nbytes  # the deep feature that is about to be replaced
    last = rows * work.pictures * height * width * subject.unet.channels[0] * dtype.size
    return WorkMemory(found.peak + earlier + work.past * last, found.results)


# Latents that a step holds beside the network: x, its estimate, and what earlier rows remember.
_STEP = 4


class _Given:
    """What a step is given that was made once: keys and values, pictures of controls."""

    def __init__(
        self,
        subject: Subject,
        work: DenoiseWork,
        unet: UNet,
        nets: Sequence[ControlNet | T2IAdapter],
        size: tuple[int, int],
    ) -> None:
        self.work, self.unet, self.nets, self.size = work, unet, nets, size
        self.subject, self.dtype = subject, subject.precision
        self.arrays: list[mx.array] = []
        for tokens in (work.text_tokens, *work.image_tokens):
            self._take_pairs(unet.cross_attentions, tokens)
        self.arrays += self._extra()
        for net in nets:
            if isinstance(net, ControlNet):
                self._take_pairs(net.cross_attentions, work.text_tokens)
                self.arrays.append(like((1, *size, net.spec.channels[0]), self.dtype))
                self.arrays += self._extra()
            else:
                self.arrays += self._features(net)

    def _take_pairs(self, sites: Sequence[Any], tokens: int) -> None:
        for site in sites:
            width = site.to_q.weight.shape[0] // site.heads
            dtype = mx.float32 if site.upcast else self.dtype
            shape = (self.work.rows, site.heads, tokens, width)
            self.arrays += [like(shape, dtype), like(shape, dtype)]

    def _extra(self) -> list[mx.array]:
        if self.subject.unet.addition is None:
            return []
        return [like((self.work.rows, self.subject.unet.time_width), self.dtype)]

    def _features(self, net: T2IAdapter) -> list[mx.array]:
        """The shapes of a T2I-Adapter's features."""
        pixels = like((1, self.work.height, self.work.width, net.spec.in_channels), self.dtype)
        return [like(feature.shape, self.dtype) for feature in net(pixels)]

    def read(self, arrays: Any) -> tuple[Conditioning, list[Any]]:
        """The conditioning, and the controls, of a trace's arrays."""
        text, *images = (
            tuple(KeyValue(next(arrays), next(arrays)) for _ in self.unet.cross_attentions)
            for _ in (None, *self.work.image_tokens)
        )
        added = next(arrays) if self.subject.unet.addition is not None else None
        controls = [self._read_control(net, arrays) for net in self.nets]
        rows = self.work.rows
        return Conditioning(rows, text, tuple(images), added=added), controls

    def _read_control(self, net: ControlNet | T2IAdapter, arrays: Any) -> Any:
        if isinstance(net, T2IAdapter):
            count = len(net.spec.blocks)
            return ConditionedAdapter(tuple(next(arrays) for _ in range(count)))
        pairs = tuple(KeyValue(next(arrays), next(arrays)) for _ in net.cross_attentions)
        picture = next(arrays)
        added = next(arrays) if self.subject.unet.addition is not None else None
        context = Context(rows=self.work.rows, text=pairs, images=(), scales=(), added=added)
        return ConditionedControl(net, picture, context, conditional_only=False)

    def weights(self, controls: Sequence[Any]) -> list[list[float]]:
        """A weight for each result of each control."""
        return [
            [1.0] * (len(c.features) if isinstance(c, ConditionedAdapter) else _results(c.net))
            for c in controls
        ]


def _results(net: ControlNet) -> int:
    return len(net.controlnet_down_blocks) + 1


_STAGES: dict[type[Any], Callable[[Subject, Any], WorkMemory]] = {
    TextWork: _text,
    ImagesWork: _images,
    ConditionWork: _condition,
    DenoiseWork: _denoise,
    VaeWork: _decode_or_encode,
}
