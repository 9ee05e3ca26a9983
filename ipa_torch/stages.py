"""The stages of a run with torch: forward hooks on diffusers' and transformers' modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import ControlNetModel

from ipa.arrays import Floats
from ipa.backend.stage_reader import StageReader, control_stage
from ipa.backend.stages import input_of, is_sequence, kind_of
from ipa.backend.tap import Emit

from .conditioning import Conditioning
from .report import networks

_CLIP = re.compile(r"^(text_model\.|vision_model\.)?(encoder\.)?")


@dataclass(frozen=True)
class Stages(StageReader):
    """`ipa.backend.tap.Taps` of a backend."""

    runtime: Any
    conditioning = Conditioning

    @contextmanager
    def hooked(self, emit: Emit) -> Iterator[None]:
        """See `Taps.hooked`."""
        with ExitStack() as stack:
            for component, network in self._networks():
                for path, module in network.named_modules():
                    for handle in _hooks(component, path, module, emit):
                        stack.callback(handle.remove)
            yield

    def _networks(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """All networks of a run, by the name of the component in stages."""
        yield from ((name.partition(":")[0], net) for name, net in networks(self.runtime))
        yield from (("projector", adapter.projector) for adapter in self.runtime.adapters)
        for name, net in self.runtime.controlnets:
            kind = "controlnet" if isinstance(net, ControlNetModel) else "t2i_adapter"
            yield control_stage(kind, name), net

    def floats(self, array: torch.Tensor) -> Floats:
        """See `StageReader`."""
        return _floats(array)

    def like(self, array: torch.Tensor, floats: Floats) -> torch.Tensor:
        """See `StageReader`."""
        return torch.from_numpy(floats).to(array).reshape(array.shape)

    of_map, map_like = floats, like

    def merged(self, array: torch.Tensor) -> Floats:
        """See `StageReader`."""
        return _floats(_merged(array))

    def split(self, array: torch.Tensor, floats: Floats) -> torch.Tensor:
        """See `StageReader`."""
        return _split(torch.from_numpy(floats).to(array), array)


def _hooks(component: str, path: str, module: torch.nn.Module, emit: Emit) -> Iterator[Any]:
    name = _name(component, path)
    given = input_of(name)
    if given is not None:
        yield module.register_forward_pre_hook(_input_hook(given, emit))
    if name.endswith(".attn2") and kind_of(name) is not None:
        yield module.register_forward_pre_hook(_site_hook(name, emit), with_kwargs=True)
    if kind_of(name) is not None:
        yield module.register_forward_hook(_output_hook(name, emit))


def _name(component: str, path: str) -> str:
    if component in {"text_encoder", "text_encoder_2", "image_encoder"}:
        path = _CLIP.sub("", path)
    return f"{component}.{path}"


def _output_hook(name: str, emit: Emit) -> Callable[..., Any]:
    def hook(module: torch.nn.Module, args: Any, output: Any) -> Any:
        if not emit.wants(name):
            return None
        first = output[0] if isinstance(output, tuple) else output
        changed = _told(emit, name, first)
        if changed is first:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def _input_hook(name: str, emit: Emit) -> Callable[..., Any]:
    def hook(module: torch.nn.Module, args: Any) -> Any:
        return (_told(emit, name, args[0]), *args[1:]) if emit.wants(name) else None

    return hook


def _site_hook(name: str, emit: Emit) -> Callable[..., Any]:
    """A hook that has a site's processor tell its branches, through its context."""

    def watch(part: str, array: torch.Tensor) -> torch.Tensor:
        stage = f"{name}.{part}"
        if not emit.wants(stage):
            return array
        merged = _merged(array)
        changed = _told(emit, stage, merged)
        return array if changed is merged else _split(changed, array)

    def hook(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        context = kwargs.get("ip_hidden_states")
        if context is None:
            return None
        return args, kwargs | {"ip_hidden_states": replace(context, watch=watch)}

    return hook


def _told(emit: Emit, name: str, array: torch.Tensor) -> torch.Tensor:
    """A tensor as told, or its replacement."""
    channels_first = is_sequence(name) and (array.ndim == 4 or name.endswith(".group_norm"))
    given = array.flatten(2).transpose(1, 2) if channels_first else array
    instead = emit(name, _floats(given))
    if instead is None:
        return array
    changed = torch.from_numpy(instead).to(array)
    return (changed.transpose(1, 2) if channels_first else changed).reshape(array.shape)


def _merged(array: torch.Tensor) -> torch.Tensor:
    """Merge heads: (B, heads, L, d) to (B, L, C)."""
    return array.transpose(1, 2).flatten(2)


def _split(array: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Split heads: (B, L, C) to (B, heads, L, d)."""
    batch, heads, length, width = like.shape
    return array.reshape(batch, length, heads, width).transpose(1, 2)


def _floats(array: torch.Tensor) -> Floats:
    floats: Floats = array.detach().float().cpu().numpy().copy()
    return floats
