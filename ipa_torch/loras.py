"""The LoRAs beside a model, in PEFT's layers: which of them act now."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.peft_utils import delete_adapter_layers, recurse_remove_peft_layers
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from ipa.backend.protocol import LoadedLora, LoraScale
from ipa.errors import CheckpointError
from ipa.model.ignoring import NOTHING, Ignore
from ipa.watching import one_part

from .files.lora_file import Networks, Tensors, read_lora
from .files.weights import MALFORMED, quiet, reason

_FIXED = {"peft_type": "LORA", "use_dora": False, "lora_bias": False, "bias": "none"}


@dataclass(frozen=True, eq=False)
class _Attached:
    """A loaded LoRA: PEFT's name for it (own names allow no dots), and each layer's strength."""

    label: str
    fuse: bool
    strengths: Mapping[LoraLayer, float]


@dataclass
class _Acting:
    """The LoRAs that act in the networks, weights to put back, and what is to leave PEFT's layers.

    `unloaded` goes once nothing frozen has it any more; `count` is of all that were ever loaded;
    `layers` are all of PEFT's, each with its network, or empty where they must be looked for.
    """

    layers: list[tuple[str, LoraLayer]] = field(default_factory=list)
    scales: Mapping[_Attached, LoraScale] = field(default_factory=dict)
    originals: dict[LoraLayer, torch.nn.Parameter] = field(default_factory=dict)
    unloaded: list[tuple[str, weakref.ref[_Attached]]] = field(default_factory=list)
    count: int = 0


@dataclass
class Loras:
    """The loaded LoRAs by name. See `ipa.backend.protocol.LoraSet`.

    PEFT's layers hold the base model's, whose own weights are put back when nothing is fused. What
    is frozen shares `_acting`, for the networks are the same.
    """

    networks: Networks
    _attached: dict[str, _Attached] = field(default_factory=dict)
    _acting: _Acting = field(default_factory=_Acting)

    def frozen(self) -> Loras:
        """See `Backend.frozen`."""
        return replace(self, _attached=dict(self._attached))

    @torch.no_grad()
    def load(self, name: str, path: Path, *, fuse: bool, ignore: Ignore = NOTHING) -> LoadedLora:
        """See `LoraSet.load`."""
        with one_part():
            parts, config, left_out = read_lora(path, self.networks, ignore)
        self._acting.count += 1
        label = f"file{self._acting.count}"
        self._acting.layers.clear()
        try:
            with quiet():
                for part, tensors in parts.items():
                    settings = {
                        k.partition(".")[2]: v for k, v in config.items() if _is_of(k, part)
                    }
                    _inject(self.networks[part], label, tensors, settings)
        except (*MALFORMED, NotImplementedError) as error:
            self._remove(label)
            raise CheckpointError(
                f"{path.name} cannot be loaded by PEFT",
                found=reason(error),
                remedy="check that it is a LoRA for this model",
            ) from error
        layers = [layer for _, layer in self._layers() if label in layer.scaling]
        strengths = {layer: float(layer.scaling[label]) for layer in layers}
        self._attached[name] = _Attached(label, fuse, strengths)
        self._act()
        return LoadedLora(
            {part: len(tensors) // 2 for part, tensors in parts.items()},
            sum(t.numel() for part in parts.values() for t in part.values()) * self._itemsize,
            sum(layer.get_base_layer().weight.nbytes for layer in layers) if fuse else 0,
            left_out,
        )

    def unload(self, name: str) -> None:
        """See `LoraSet.unload`."""
        attached = self._attached.pop(name)
        self._acting.unloaded.append((attached.label, weakref.ref(attached)))
        del attached
        self._forget()

    @torch.no_grad()
    def use(self, scales: Mapping[str, LoraScale]) -> None:
        """See `LoraSet.use`."""
        acting = {self._attached[n]: scale for n, scale in scales.items() if scale}
        if acting != self._acting.scales:
            self._acting.scales = acting
            self._act()
        self._forget()

    @property
    def _itemsize(self) -> int:
        unet: Any = self.networks["unet"]
        return int(unet.dtype.itemsize)

    def _layers(self) -> Sequence[tuple[str, LoraLayer]]:
        """All PEFT layers, each with its network; looked for once, since each step asks."""
        if not self._acting.layers:
            for part, network in self.networks.items():
                layers = [layer for layer in network.modules() if isinstance(layer, LoraLayer)]
                self._acting.layers += [(part, layer) for layer in layers]
        return self._acting.layers

    def _act(self) -> None:
        """Bring every layer into the state that the scales describe."""
        originals = self._acting.originals
        for layer, original in originals.items():
            layer.get_base_layer().weight = original
        originals.clear()
        for part, layer in self._layers():
            active, change = [], None
            for attached, both in self._acting.scales.items():
                scale = both.at(part)
                if layer not in attached.strengths or scale == 0.0:
                    continue
                layer.scaling[attached.label] = scale * attached.strengths[layer]
                if attached.fuse:
                    delta = layer.get_delta_weight(attached.label).float()
                    change = delta if change is None else change + delta
                else:
                    active.append(attached.label)
            layer.set_adapter(active)
            if change is not None:
                base: Any = layer.get_base_layer()
                originals[layer] = base.weight
                total = (base.weight.float() + change).to(base.weight.dtype)
                base.weight = torch.nn.Parameter(total, requires_grad=False)

    def _forget(self) -> None:
        """Remove what was unloaded and is in no frozen set; it acts nowhere meanwhile."""
        gone = [label for label, attached in self._acting.unloaded if attached() is None]
        self._acting.unloaded = [entry for entry in self._acting.unloaded if entry[0] not in gone]
        for label in gone:
            self._remove(label)

    def _remove(self, label: str) -> None:
        """Remove a LoRA from every layer; layers without any become the base model's again."""
        self._acting.layers.clear()
        for network in self.networks.values():
            delete_adapter_layers(network, label)
            configs = getattr(network, "peft_config", {})
            configs.pop(label, None)
            if not configs:
                recurse_remove_peft_layers(network)
                if hasattr(network, "peft_config"):
                    del network.peft_config


def _is_of(key: str, part: str) -> bool:
    return key.startswith(f"{part}.")


def _inject(
    network: torch.nn.Module, label: str, tensors: Tensors, settings: Mapping[str, Any]
) -> None:
    """Give the layers of a network PEFT's, with these matrices; `told` is PEFT's configuration."""
    for key, value in _FIXED.items():
        if settings.get(key, value) != value:
            raise ValueError(f"its configuration says {key}={settings[key]!r}, not {value!r}")
    ranks = {k.removesuffix(".lora_B.weight"): t.shape[1] for k, t in tensors.items() if "_B" in k}
    if settings:
        config = LoraConfig(**settings)
    else:
        first = next(iter(ranks.values()))
        ranks_by_path = {f"^{path}": rank for path, rank in ranks.items()}
        config = LoraConfig(
            r=first,
            lora_alpha=first,
            rank_pattern=ranks_by_path,
            alpha_pattern=ranks_by_path,
            target_modules=[*ranks],
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
        inject_adapter_in_model(config, network, adapter_name=label, state_dict=tensors)
    result = set_peft_model_state_dict(network, tensors, adapter_name=label)
    missing = [key for key in result.missing_keys if f".{label}." in key]
    if result.unexpected_keys or missing:
        raise ValueError(f"it leaves over {', '.join([*result.unexpected_keys, *missing][:5])}")
    network.requires_grad_(requires_grad=False)
