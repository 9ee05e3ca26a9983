"""The stages of a run on MLX: every module is given a class of its own that reports.

An instance's class is exchanged for a subclass that calls the original and reports what it gave;
so nothing in the modules knows of it, and unwatched nothing is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ipa.arrays import Floats
from ipa.backend.stage_reader import StageReader, control_stage
from ipa.backend.stages import INPUTS, input_of, is_sequence, kind_of
from ipa.backend.tap import Emit

from .adapters import ImageAdapter
from .conditioning import Conditioning
from .networks.attention import CrossAttention, merge_heads
from .networks.context import Context
from .networks.watching import MARK, is_watched
from .residency import Resident

_DIFFUSERS = (
    (r"\.conditioning_embedding$", ".controlnet_cond_embedding"),
    (r"\.to_out$", ".to_out.0"),
    (r"\.downsample$", ".downsamplers.0.conv"),
    (r"\.upsample$", ".upsamplers.0.conv"),
    (r"\.ff\.proj_in$", ".ff.net.0.proj"),
    (r"\.ff\.proj_out$", ".ff.net.2"),
    (r"\.time_embedding\.time_proj$", ".time_proj"),
)


_CLIP = (
    (r"\.norm([12])$", r".layer_norm\1"),
    (r"\.attention\.to_([qkv])$", r".self_attn.\1_proj"),
    (r"\.attention\.to_out$", ".self_attn.out_proj"),
    (r"\.attention$", ".self_attn"),
    (r"\.feed_forward\.proj_in$", ".mlp.fc1"),
    (r"\.feed_forward\.proj_out$", ".mlp.fc2"),
    (r"\.feed_forward$", ".mlp"),
    (r"\.patch_embedding$", ".embeddings.patch_embedding"),
    (r"\.pre_norm$", ".pre_layrnorm"),
    (r"\.post_norm$", ".post_layernorm"),
)


_PROJECTORS = {
    "LinearProjector": ((r"\.proj$", ".image_embeds"),),
    "MlpProjector": ((r"\.proj_in$", ".ff.net.0.proj"), (r"\.proj_out$", ".ff.net.2")),
    "FaceProjector": ((r"\.proj_in$", ".ff.net.0.proj"), (r"\.proj_out$", ".ff.net.2")),
    "FacePlusProjector": (
        (r"\.face\.proj_in$", ".proj.net.0.proj"),
        (r"\.face\.proj_out$", ".proj.net.2"),
        (r"\.face\.norm$", ".norm"),
        (r"\.resampler\.", "."),
    ),
}


_LAYERS = (
    (r"(\.layers\.\d+)\.norm_states$", r"\1.ln0"),
    (r"(\.layers\.\d+)\.norm_latents$", r"\1.ln1"),
    (r"(\.layers\.\d+)\.to_q$", r"\1.attn.to_q"),
    (r"(\.layers\.\d+)\.to_out$", r"\1.attn.to_out.0"),
    (r"(\.layers\.\d+)\.norm_ff$", r"\1.ff.0"),
    (r"(\.layers\.\d+)\.proj_out$", r"\1.ff.1.net.2"),
)


_TOWERS = {
    "text_encoder": ((r"\.projection$", ".text_projection"), *_CLIP),
    "text_encoder_2": ((r"\.projection$", ".text_projection"), *_CLIP),
    "image_encoder": ((r"\.projection$", ".visual_projection"), *_CLIP),
}


MORE_INPUTS = {
    "mlp.fc2": "mlp.activation_fn",
    "net.2": "net.0",
    "text_encoder.layers.0": "text_encoder.embeddings",
    "text_encoder_2.layers.0": "text_encoder_2.embeddings",
    "pre_layrnorm": "embeddings",
}
"""Names of more modules' inputs, beside `ipa.backend.stages.INPUTS`."""


def stage_name(component: str, path: str, network: nn.Module) -> str | None:
    """The stage name of a module or its input; None where neither is a stage."""
    name = f"{component}.{path}"
    for pattern, instead in _names(component, network):
        name, found = re.subn(pattern, instead, name)
        if found and component != "projector":
            break
    is_stage = kind_of(name) is not None or input_of(name, INPUTS | MORE_INPUTS) is not None
    return name if is_stage else None


def _names(component: str, network: nn.Module) -> tuple[tuple[str, str], ...]:
    if component == "projector":
        return _PROJECTORS.get(type(network).__name__, ()) + _LAYERS
    return _TOWERS.get(component, _DIFFUSERS)


@dataclass(frozen=True)
class Stages(StageReader):
    """`ipa.backend.tap.Taps` of a backend."""

    runtime: Any
    conditioning = Conditioning

    @contextmanager
    def hooked(self, emit: Emit) -> Iterator[None]:
        """See `Taps.hooked`."""
        with ExitStack() as stack:
            for component, resident in self._residents():
                stack.enter_context(resident.hosting(_Telling(component, emit)))
            yield

    def _residents(self) -> Iterator[tuple[str, Resident[Any]]]:
        """All networks of a run, in memory or not, by the name of the component in stages."""
        runtime = self.runtime
        yield from runtime.networks.items()
        yield from (("image_encoder", encoder) for _, encoder in runtime.adapters.encoders())
        yield from (("projector", adapter) for _, adapter in runtime.adapters.residents())
        for kind, name, control in runtime.controlnets.residents():
            yield control_stage(kind, name), control

    def floats(self, array: mx.array) -> Floats:
        """See `StageReader`."""
        return _floats(array)

    def like(self, array: mx.array, floats: Floats) -> mx.array:
        """See `StageReader`."""
        return _like(array, floats)

    def of_map(self, array: mx.array) -> Floats:
        """See `StageReader`."""
        return _floats(_channels_first(array))

    def map_like(self, array: mx.array, floats: Floats) -> mx.array:
        """See `StageReader`."""
        return _like(array, np.moveaxis(floats, -3, -1))

    def merged(self, array: mx.array) -> Floats:
        """See `StageReader`."""
        return _floats(merge_heads(array))

    def split(self, array: mx.array, floats: Floats) -> mx.array:
        """See `StageReader`."""
        return _split(floats, array)


@dataclass(eq=False)
class _Telling:
    """`residency.Guest`: a tap's hooks in one component, for as long as it is in memory."""

    component: str
    emit: Emit
    _kinds: list[tuple[nn.Module, type]] = field(default_factory=list)

    def enter(self, network: nn.Module | ImageAdapter) -> None:
        if isinstance(network, ImageAdapter):
            network = network.projector
        for path, module in network.named_modules():
            name = stage_name(self.component, path, network)
            if name is not None:
                self._exchange(module, _telling(module, name, self.emit))
        if not is_watched(network):
            self._exchange(network, type(network).__call__)

    def _exchange(self, module: nn.Module, call: Callable[..., Any]) -> None:
        kind = type(module)
        module.__class__ = type(kind.__name__, (kind,), {"__call__": call, MARK: True})
        self._kinds.append((module, kind))

    def leave(self, _: object) -> None:
        for module, kind in self._kinds:
            module.__class__ = kind
        self._kinds.clear()


def _telling(module: nn.Module, name: str, emit: Emit) -> Callable[..., Any]:
    """A module's call that tells its input, where that is a stage, then its output."""
    original, given = type(module).__call__, input_of(name, INPUTS | MORE_INPUTS)
    is_site, is_stage = isinstance(module, CrossAttention), kind_of(name) is not None

    def call(self: nn.Module, x: Any, *args: Any, **options: Any) -> Any:
        if given is not None and emit.wants(given):
            x = _told(emit, given, x)
        if is_site:
            args = tuple(_watching(a, name, emit) if isinstance(a, Context) else a for a in args)
        output = original(self, x, *args, **options)
        if not is_stage or not emit.wants(name):
            return output
        if isinstance(output, tuple):
            return (_told(emit, name, output[0]), *output[1:])
        return _told(emit, name, output)

    return call


def _watching(context: Context, name: str, emit: Emit) -> Context:
    """A site's call that tells its branches, through the context that it is given."""

    def watch(part: str, array: mx.array) -> mx.array:
        stage = f"{name}.{part}"
        if not emit.wants(stage):
            return array
        instead = emit(stage, _floats(array.reshape(*array.shape[:2], -1)))
        return array if instead is None else _like(array, instead)

    return replace(context, watch=watch)


def _told(emit: Emit, name: str, array: mx.array) -> mx.array:
    """An array as told, or its replacement. Maps are told as (B, C, H, W)."""
    if array.ndim != 4:
        instead = emit(name, _floats(array))
        return array if instead is None else _like(array, instead)
    if is_sequence(name):
        instead = emit(name, _floats(array.reshape(array.shape[0], -1, array.shape[-1])))
        return array if instead is None else _like(array, instead)
    instead = emit(name, _floats(_channels_first(array)))
    return array if instead is None else _like(array, np.moveaxis(instead, -3, -1))


def _split(floats: Floats, like: mx.array) -> mx.array:
    """Split heads: (B, L, C) to (B, heads, L, d)."""
    batch, heads, length, width = like.shape
    rows = mx.array(floats).reshape(batch, length, heads, width).transpose(0, 2, 1, 3)
    return mx.contiguous(rows.astype(like.dtype))


def _like(array: mx.array, floats: Floats) -> mx.array:
    return mx.array(np.ascontiguousarray(floats)).reshape(array.shape).astype(array.dtype)


def _channels_first(array: mx.array) -> mx.array:
    return mx.moveaxis(array, -1, -3)


def _floats(array: mx.array) -> Floats:
    return np.array(mx.contiguous(array).astype(mx.float32))
