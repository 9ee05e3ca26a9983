"""LoRAs on MLX: read once, then used at any scale, fused or beside the weights."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from ipa.backend.protocol import LoadedLora, LoraScale
from ipa.errors import RequestError
from ipa.model.folder import ModelFolder
from ipa.model.ignoring import NOTHING, Ignore
from ipa_convert import Converted, ConvertedTensor

from .networks.weights import arrays

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


@dataclass
class _Acting:
    """The LoRAs that act in the networks, and the layers to be put back."""

    scales: Mapping[_Attached, LoraScale] = field(default_factory=dict)
    originals: dict[Place, nn.Module] = field(default_factory=dict)


@dataclass
class Loras:
    """The loaded LoRAs by name. See `ipa.backend.protocol.LoraSet`.

    A layer that is changed is replaced in its network by one that holds it (`ChangedLayer`), or by
    a copy with other weights; the originals are put back when nothing changes them any more. What
    is frozen shares `_acting`, for the networks are the same.
    """

    model: ModelFolder
    networks: Mapping[str, nn.Module]
    precision: mx.Dtype
    _attached: dict[str, _Attached] = field(default_factory=dict)
    _acting: _Acting = field(default_factory=_Acting)

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
        layers = {place: self._original(place) for place in lora}
        if fuse:
            _require_plain(layers, path.name)
        self._attached[name] = _Attached(_changes(lora, self.precision), fuse)
        return LoadedLora(
            dict(Counter(network for network, _ in lora)),
            sum(change.nbytes for change in self._attached[name].changes.values()),
            sum(layer.weight.nbytes for layer in layers.values()) if fuse else 0,
            lora.dropped,
        )

    def unload(self, name: str) -> None:
        """See `LoraSet.unload`."""
        del self._attached[name]

    def use(self, scales: Mapping[str, LoraScale]) -> None:
        """See `LoraSet.use`. Evaluated, so that any thread may go on."""
        wanted = {self._attached[name]: scale for name, scale in scales.items() if scale}
        if wanted == self._acting.scales:
            return
        places = {
            place: None
            for attached, scale in wanted.items()
            for place in attached.changes
            if scale.at(place[0]) != 0.0
        }
        layers = {place: self._changed(place, wanted) for place in places}
        changed = [layer.change for layer in layers.values() if isinstance(layer, ChangedLayer)]
        mx.eval([(change.down, change.up) for change in changed])
        mx.eval([layer.parameters() for layer in layers.values()])
        for place, original in self._acting.originals.items():
            self._put(place, original)
        self._acting.originals = {place: self._at(place) for place in places}
        for place, layer in layers.items():
            self._put(place, layer)
        self._acting.scales = wanted

    def _changed(self, place: Place, scales: Mapping[_Attached, LoraScale]) -> nn.Module:
        layer = self._original(place)
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

    def _original(self, place: Place) -> nn.Module:
        originals = self._acting.originals
        return originals[place] if place in originals else self._at(place)

    def _at(self, place: Place) -> nn.Module:
        network, path = place
        return _child(self.networks[network], path.split("."))

    def _put(self, place: Place, layer: nn.Module) -> None:
        network, path = place
        *above, last = path.split(".")
        parent = _child(self.networks[network], above)
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
    found = dict(arrays(Converted(lora.where, tensors), precision))
    changes = {place: _change(f"{place[0]}.{place[1]}", lora[place], found) for place in lora}
    mx.eval([(change.down, change.up) for change in changes.values()])
    return changes


def _change(name: str, pair: LoraPair, found: Mapping[str, mx.array]) -> LowRankChange:
    change = LowRankChange(found[f"{name}.down"], found[f"{name}.up"])
    return change if pair.scale == 1.0 else change.scaled(pair.scale)


def _require_plain(layers: Mapping[Place, nn.Module], where: str) -> None:
    quantized = [path for (_, path), layer in layers.items() if "scales" in layer]
    if quantized:
        raise RequestError(
            f"{where} cannot be fused with quantised layers",
            found=f"{len(quantized)}, such as {quantized[0]}",
            remedy="leave fuse out: beside them it keeps its precision",
        )
