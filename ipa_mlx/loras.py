"""LoRAs on MLX: read once, then used at any scale, fused or beside the weights."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from ipa.backend.protocol import LoadedLora, LoraScale
from ipa.errors import RequestError
from ipa.model.folder import ModelFolder
from ipa.model.ignoring import NOTHING, Ignore
from ipa.watching import watch
from ipa_convert import Converted, ConvertedTensor

from .networks.weights import arrays
from .residency import Resident, Source

if TYPE_CHECKING:
    from ipa_convert import Lora, LoraPair


@dataclass(frozen=True, slots=True)
class LowRankChange:
    """A low-rank change: down (r, inputs), or (r, kh, kw, inputs) before a convolution; up."""

    down: mx.array
    up: mx.array

    def scaled(self, factor: float) -> LowRankChange:
        """The change `factor` times as strong; the product is rounded once."""
        up = (self.up.astype(mx.float32) * factor).astype(self.up.dtype)
        return LowRankChange(self.down, up)

    @property
    def nbytes(self) -> int:
        """The bytes of both matrices."""
        return self.down.nbytes + self.up.nbytes


def joined(changes: Sequence[LowRankChange]) -> LowRankChange:
    """The sum of changes as one change of the summed rank: one pair of products a layer."""
    if len(changes) == 1:
        return changes[0]
    return LowRankChange(
        mx.concatenate([change.down for change in changes]),
        mx.concatenate([change.up for change in changes], axis=1),
    )


class ChangedLayer(nn.Module):
    """A layer with a change, W x + up (down x): linear, quantised or not, or a convolution.

    The layer itself is kept as it is. The change is no parameter of the network.
    """

    def __init__(self, base: nn.Module, change: LowRankChange) -> None:
        super().__init__()
        self.base = base
        self.change = change

    @property
    def weight(self) -> mx.array:
        """The base layer's weight: others ask for its type."""
        return self.base.weight

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the layer and its change."""
        change = self.change
        if change.down.ndim == 2:
            return self.base(x) + (x @ change.down.T) @ change.up.T
        inner = mx.conv2d(x, change.down, self.base.stride, self.base.padding)
        return self.base(x) + inner @ change.up.T


def merged(base: nn.Module, change: LowRankChange) -> nn.Module:
    """A copy of a layer with the change in its weight: summed in float32 and rounded once."""
    down, up = change.down.astype(mx.float32), change.up.astype(mx.float32)
    product = (up @ down.reshape(len(down), -1)).reshape(base.weight.shape)
    layer = copy.copy(base)
    layer.weight = (base.weight.astype(mx.float32) + product).astype(base.weight.dtype)
    return layer


Place: TypeAlias = tuple[str, str]
"""A network, and the path of a layer in it."""


@dataclass(frozen=True, eq=False)
class _Attached:
    """A loaded LoRA: its changes at scale 1, alpha included, and whether it is fused."""

    changes: Mapping[Place, LowRankChange]
    fuse: bool


@dataclass(eq=False)
class Acting:
    """The LoRAs that act in the networks, and the layers to be put back; how often others did.

    A layer that is changed is replaced in its network by one that holds it (`ChangedLayer`), or by
    a copy with other weights; the originals are put back when nothing changes them any more. A
    network that comes back from its files is changed as those that stayed.
    """

    networks: Mapping[str, Resident[Any]]
    scales: Mapping[_Attached, LoraScale] = field(default_factory=dict)
    uses: int = 0
    originals: dict[Place, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, network in self.networks.items():
            network.guests.insert(0, _Settler(self, name))

    def use(self, wanted: Mapping[_Attached, LoraScale]) -> None:
        """Have LoRAs act, and no others. Evaluated, so that any thread may go on."""
        if wanted == self.scales:
            return
        here = {name: each.get() for name, each in self.networks.items() if each.is_here}
        layers = self._layers(here, wanted)
        for place, original in self.originals.items():
            _put(here[place[0]], place[1], original)
        self.originals = {}
        for name, network in here.items():
            self._put_all(name, network, layers)
        self.scales = wanted
        self.uses += 1

    def settle(self, name: str, network: nn.Module) -> None:
        """Have those that act do so in a network that has come."""
        self._put_all(name, network, self._layers({name: network}, self.scales))

    def forget(self, name: str) -> None:
        """Let go of the layers of a network that leaves."""
        self.originals = {p: layer for p, layer in self.originals.items() if p[0] != name}

    def _layers(
        self, here: Mapping[str, nn.Module], scales: Mapping[_Attached, LoraScale]
    ) -> dict[Place, nn.Module]:
        """The layers as they are to be, of networks that are in memory; evaluated."""
        places = {
            place: None
            for attached, scale in scales.items()
            for place in attached.changes
            if place[0] in here and scale.at(place[0]) != 0.0
        }
        layers = {p: _changed(self._original(here, p), p, scales) for p in places}
        changed = [layer.change for layer in layers.values() if isinstance(layer, ChangedLayer)]
        mx.eval([(change.down, change.up) for change in changed])
        for layer in layers.values():  # one by one: a sum takes several times its layer
            mx.eval(layer.parameters())
        return layers

    def _original(self, here: Mapping[str, nn.Module], place: Place) -> nn.Module:
        if place in self.originals:
            return self.originals[place]
        return _child(here[place[0]], place[1].split("."))

    def _put_all(self, name: str, network: nn.Module, layers: Mapping[Place, nn.Module]) -> None:
        mine = {place: layer for place, layer in layers.items() if place[0] == name}
        self.originals |= {place: _child(network, place[1].split(".")) for place in mine}
        for (_, path), layer in mine.items():
            _put(network, path, layer)


@dataclass(frozen=True, eq=False)
class _Settler:
    """`residency.Guest`: the LoRAs that act in one network."""

    acting: Acting
    name: str

    def enter(self, network: nn.Module) -> None:
        self.acting.settle(self.name, network)

    def leave(self, _: nn.Module) -> None:
        self.acting.forget(self.name)


@dataclass
class Loras:
    """The loaded LoRAs by name. See `ipa.backend.protocol.LoraSet`.

    What is frozen shares `acting`, for the networks are the same.
    """

    model: ModelFolder
    acting: Acting
    precision: mx.Dtype
    _attached: dict[str, _Attached] = field(default_factory=dict)

    def frozen(self) -> Loras:
        """See `Backend.frozen`."""
        return replace(self, _attached=dict(self._attached))

    def load(self, name: str, path: Path, *, fuse: bool, ignore: Ignore = NOTHING) -> LoadedLora:
        """See `LoraSet.load`."""
        from ipa_convert import LoraTargets, read_lora

        model = self.model
        targets = LoraTargets(
            unet=model.unet,
            text_encoder=model.text_encoder,
            text_encoder_2=model.text_encoder_2,
        )
        lora = read_lora(path, targets, ignore=ignore)
        if fuse:
            self._require_plain(lora, path.name)
        self._attached[name] = _Attached(_changes(lora, self.precision), fuse)
        return LoadedLora(
            dict(Counter(network for network, _ in lora)),
            sum(change.nbytes for change in self._attached[name].changes.values()),
            sum(self._source(p).nbytes(f"{p[1]}.weight") for p in lora) if fuse else 0,
            lora.dropped,
        )

    def unload(self, name: str) -> None:
        """See `LoraSet.unload`."""
        del self._attached[name]

    def use(self, scales: Mapping[str, LoraScale]) -> None:
        """See `LoraSet.use`."""
        self.acting.use({self._attached[name]: scale for name, scale in scales.items() if scale})

    def _source(self, place: Place) -> Source:
        return self.acting.networks[place[0]].source

    def _require_plain(self, lora: Lora, where: str) -> None:
        quantized = [p[1] for p in lora if self._source(p).is_quantized(f"{p[1]}.weight")]
        if quantized:
            raise RequestError(
                f"{where} cannot be fused with quantised layers",
                found=f"{len(quantized)}, such as {quantized[0]}",
                remedy="leave fuse out: beside them it keeps its precision",
            )


def _changed(layer: nn.Module, place: Place, scales: Mapping[_Attached, LoraScale]) -> nn.Module:
    for fuse in (True, False):
        changes = [
            attached.changes[place].scaled(factor)
            for attached, scale in scales.items()
            if attached.fuse is fuse
            and place in attached.changes
            and (factor := scale.at(place[0])) != 0.0
        ]
        if changes:
            layer = (merged if fuse else ChangedLayer)(layer, joined(changes))
    return layer


def _put(network: nn.Module, path: str, layer: nn.Module) -> None:
    *above, last = path.split(".")
    parent = _child(network, above)
    if isinstance(parent, list):
        parent[int(last)] = layer
    else:
        parent[last] = layer


def _child(module: Any, path: Sequence[str]) -> Any:
    for part in path:
        module = module[int(part)] if isinstance(module, list) else module[part]
    return module


def _changes(lora: Lora, precision: mx.Dtype) -> dict[Place, LowRankChange]:
    """Read a LoRA's matrices, each layer's strength included."""
    tensors: dict[str, ConvertedTensor] = {}
    for (network, path), pair in lora.items():
        tensors |= {f"{network}.{path}.down": pair.down, f"{network}.{path}.up": pair.up}
    watch().expect("load", sum(prod(t.shape) * precision.size for t in tensors.values()))
    found = dict(arrays(Converted(lora.where, tensors), precision))
    changes = {place: _change(f"{place[0]}.{place[1]}", lora[place], found) for place in lora}
    mx.eval([(change.down, change.up) for change in changes.values()])
    return changes


def _change(name: str, pair: LoraPair, found: Mapping[str, mx.array]) -> LowRankChange:
    change = LowRankChange(found[f"{name}.down"], found[f"{name}.up"])
    return change if pair.scale == 1.0 else change.scaled(pair.scale)
