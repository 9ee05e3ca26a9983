"""What can be watched of a run: forward hooks on diffusers' and transformers' modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ControlNetModel

from ipa.contract.backend import Floats, ImageTokens
from ipa.contract.taps import Emit
from ipa.contract.text import TextStates
from ipa.parity.stages import input_of, is_sequence, kind_of

from .conditioning import Conditioning, KeyValue
from .report import networks

if TYPE_CHECKING:
    from .backend import Runtime

_CLIP = re.compile(r"^(text_model\.|vision_model\.)?(encoder\.)?")


@dataclass(frozen=True)
class Stages:
    """`ipa.contract.taps.Taps` of a runtime."""

    runtime: Runtime

    @contextmanager
    def hooked(self, emit: Emit) -> Iterator[None]:
        """See `Taps.hooked`."""
        with ExitStack() as stack:
            for component, network in self._networks():
                for path, module in network.named_modules():
                    for handle in _hooks(component, path, module, emit):
                        stack.callback(handle.remove)
            yield

    def read(self, value: Any) -> dict[str, Floats]:
        """See `Taps.read`."""
        if isinstance(value, Conditioning):
            return {name: _floats(array) for name, array in self._arrays(value)}
        if isinstance(value, TextStates | ImageTokens):
            return {name: _floats(array) for name, array in _fields(value).items()}
        return {"": _floats(value)}

    def written(self, value: Any, arrays: Mapping[str, Floats]) -> Any:
        """See `Taps.written`."""
        if isinstance(value, Conditioning):
            return replace(value, images=tuple(self._images(value, arrays)))
        if isinstance(value, TextStates | ImageTokens):
            own = _fields(value)
            return replace(value, **{name: _like(own[name], a) for name, a in arrays.items()})
        return _like(value, arrays[""])

    def _networks(self) -> Iterator[tuple[str, torch.nn.Module]]:
        runtime = self.runtime
        yield from ((name.partition(":")[0], net) for name, net in networks(runtime))
        yield from (("projector", adapter.projector) for adapter in runtime.adapters)
        for name, net in runtime.controlnets:
            kind = "controlnet" if isinstance(net, ControlNetModel) else "t2i_adapter"
            yield f"{kind}." + re.sub(r"\W", "_", name), net

    def _arrays(self, value: Conditioning) -> Iterator[tuple[str, torch.Tensor]]:
        for number, pairs in enumerate(value.images):
            for site, pair in zip(self.runtime.model.sites, pairs, strict=True):
                head = f"image.{number}.{site.path}"
                yield f"{head}.to_k", _merged(pair.keys)
                yield f"{head}.to_v", _merged(pair.values)
                if pair.mask is not None:
                    yield f"{head}.mask", pair.mask[:, 0]

    def _images(
        self, value: Conditioning, arrays: Mapping[str, Floats]
    ) -> Iterator[tuple[KeyValue, ...]]:
        for number, pairs in enumerate(value.images):
            heads = [f"image.{number}.{site.path}" for site in self.runtime.model.sites]
            yield tuple(_pair(pair, head, arrays) for pair, head in zip(pairs, heads, strict=True))


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
    """Has a site's processor tell its branches, through the context that it is given."""

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
    """The same tensor, or what is to stand in for it."""
    channels_first = is_sequence(name) and (array.ndim == 4 or name.endswith(".group_norm"))
    given = array.flatten(2).transpose(1, 2) if channels_first else array
    instead = emit(name, _floats(given))
    if instead is None:
        return array
    changed = torch.from_numpy(instead).to(array)
    return (changed.transpose(1, 2) if channels_first else changed).reshape(array.shape)


def _like(array: torch.Tensor, floats: Floats) -> torch.Tensor:
    return torch.from_numpy(floats).to(array).reshape(array.shape)


def _pair(pair: KeyValue, head: str, arrays: Mapping[str, Floats]) -> KeyValue:
    keys, values = (
        _split(torch.from_numpy(arrays[name]).to(old), old) if name in arrays else old
        for name, old in ((f"{head}.to_k", pair.keys), (f"{head}.to_v", pair.values))
    )
    mask = arrays.get(f"{head}.mask")
    if mask is None or pair.mask is None:
        return replace(pair, keys=keys, values=values)
    return replace(pair, keys=keys, values=values, mask=_like(pair.mask, mask[:, None]))


def _merged(array: torch.Tensor) -> torch.Tensor:
    """(B, heads, L, d) to (B, L, C)."""
    return array.transpose(1, 2).flatten(2)


def _split(array: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse."""
    batch, heads, length, width = like.shape
    return array.reshape(batch, length, heads, width).transpose(1, 2)


def _fields(value: TextStates | ImageTokens) -> dict[str, torch.Tensor]:
    is_text = isinstance(value, TextStates)
    names = ("states", "pooled") if is_text else ("conditional", "unconditional")
    return {name: array for name in names if (array := getattr(value, name)) is not None}


def _floats(array: torch.Tensor) -> Floats:
    floats: Floats = array.detach().float().cpu().numpy().copy()
    return floats
