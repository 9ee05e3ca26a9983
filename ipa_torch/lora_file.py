"""LoRA files: names and layouts by diffusers' own conversions, with nothing left over."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ipa.contract.base_sites import base_name
from ipa.contract.errors import CheckpointError
from ipa.contract.files import container

from .loading import MALFORMED, check_finite, quiet, read_tensors, reason, require_weights

Tensors: TypeAlias = dict[str, torch.Tensor]
Networks: TypeAlias = Mapping[str, torch.nn.Module]

_METADATA = "lora_adapter_metadata"  # diffusers keeps PEFT's configuration there
_TEXTS = ("text_encoder", "text_encoder_2")
_KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_CONTEXT = re.compile(r".*attn2\.to_k\.lora_A\.weight")
_DOWN = re.compile(r".+(?:\.lora_down|\.lora_A|\.lora\.down|_layer\.down|_lora\.down)\.weight")
_UP = re.compile(r".+(?:\.lora_up|\.lora_B|\.lora\.up|_layer\.up|_lora\.up)\.weight")
# PEFT's names that diffusers does not read: an adapter's name inside, a wrapper around.
_SPELLED = ((r"(\.lora_[AB])\.[^.]+\.weight$", r"\1.weight"), (r"base_model\.model\.", ""))


def read_lora(path: Path, networks: Networks) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """The matrices of each network, as PEFT names them, and PEFT's configuration if there is one.

    The alphas of other files are within the matrices: diffusers 0.42 forgets those of kohya's that
    differ from the most frequent one.

    Args:
        path: The file.
        networks: "unet", "text_encoder" and, for SDXL, "text_encoder_2".

    Returns:
        By network "<path>.lora_A.weight" and "….lora_B.weight", in float32 and in the shapes that
        their layers need; and the configurations' fields, "unet.lora_alpha" and so on.

    Raises:
        CheckpointError: It is damaged, or a tensor has no layer in this model.
    """
    tensors, config = _read(path)
    tensors = _with_alphas({_spelled(name): t.float() for name, t in tensors.items()}, path)
    count = sum(bool(_DOWN.fullmatch(name)) for name in tensors)
    _refuse("holds what no LoRA has", path, [n for n in tensors if not _known(n)])
    try:
        with quiet():
            parts = _parts(tensors, networks)
    except MALFORMED as error:
        raise CheckpointError(
            f"{path.name} cannot be read as a LoRA by diffusers",
            found=reason(error),
            remedy="use the mlx backend, or a file in kohya's or PEFT's names",
        ) from error
    absent = [n for part in parts.keys() - networks.keys() for n in parts[part]]
    _refuse("is for a text encoder that this model has not", path, absent)
    for name, part in parts.items():
        _fit(part, networks[name], path)
    if sum(len(part) for part in parts.values()) != 2 * count or not count:
        raise CheckpointError(
            f"diffusers does not know all names in {path.name}",
            found=f"{count} pairs, of which it read {sum(map(len, parts.values())) // 2}",
            remedy="use the mlx backend, or a file in kohya's or PEFT's names",
        )
    return {name: part for name, part in parts.items() if part}, config


def _read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    config: dict[str, Any] = {}
    if container(path) == "safetensors":
        require_weights(path)
        try:
            tensors = load_file(path)
            with safe_open(path, framework="pt") as file:
                config = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged", found=reason(error), remedy="download it again"
            ) from error
    else:
        tensors = read_tensors(path, torch.float32)
    check_finite(tensors, path.name)
    beside = path.with_name("adapter_config.json")
    if path.stem == "adapter_model" and beside.is_file():  # PEFT's own folder, of a UNet
        config = {f"unet.{key}": value for key, value in json.loads(beside.read_text()).items()}
    return tensors, config


def _spelled(name: str) -> str:
    for pattern, replacement in _SPELLED:
        name = re.sub(pattern, replacement, name)
    told = name.startswith((*_KOHYA, *(f"{part}." for part in ("unet", *_TEXTS))))
    return name if told or not re.match(r"[a-z_]+\.", name) else f"unet.{name}"


def _known(name: str) -> bool:
    return bool(_DOWN.fullmatch(name) or _UP.fullmatch(name))


def _with_alphas(tensors: Tensors, path: Path) -> Tensors:
    """Each alpha in its layer's upper matrix."""
    found = {name: t for name, t in tensors.items() if not name.endswith(".alpha")}
    for name, alpha in tensors.items():
        stem = name.removesuffix(".alpha")
        pair = [f"{stem}.lora_{end}.weight" for end in ("down", "up")]
        if not name.endswith(".alpha"):
            continue
        if alpha.numel() != 1 or not found.keys() >= set(pair):
            _refuse("has an alpha without a pair of matrices", path, [name])
        found[pair[1]] = found[pair[1]] * (float(alpha) / len(found[pair[0]]))
    return found


def _parts(tensors: Tensors, networks: Networks) -> dict[str, Tensors]:
    """By network, as PEFT names them; what diffusers passes over is missing."""
    unet: Any = networks["unet"]
    config = unet.config if "text_encoder_2" in networks else None  # as diffusers' two pipelines
    state, *_ = StableDiffusionLoraLoaderMixin.lora_state_dict(dict(tensors), unet_config=config)
    parts: dict[str, Tensors] = {}
    for name in ("unet", *_TEXTS):
        own = {k.removeprefix(f"{name}."): t for k, t in state.items() if k.startswith(f"{name}.")}
        if not own:
            continue
        if name == "unet":
            own = own if "lora_A" in next(iter(own)) else convert_unet_state_dict_to_peft(own)
        else:
            for kind in (StateDictType.DIFFUSERS_OLD, StateDictType.DIFFUSERS):
                own = convert_state_dict_to_peft(own, kind)  # its guess goes by what is not there
            own = {_in_text(key, networks.get(name)): t for key, t in own.items()}
        parts[name] = own
    return parts


def _in_text(key: str, network: torch.nn.Module | None) -> str:
    """CLIPTextModel has no level `text_model` since transformers 5.6; the one with a projection."""
    bare = key.removeprefix("text_model.")
    return f"text_model.{bare}" if hasattr(network, "text_model") and "encoder." in bare else bare


def _fit(part: Tensors, network: torch.nn.Module, path: Path) -> None:
    """Every pair at a layer, in its shapes: a matrix may be stored as a 1×1 convolution."""
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    layers |= {n.removesuffix(".base_layer"): m for n, m in layers.items() if "base_layer" in n}
    stems = {name: name.rpartition(".lora_")[0] for name in part}
    _refuse("has no place in this model", path, [n for n, s in stems.items() if s not in layers])
    _check_base(part, network, path)
    for name, stem in stems.items():
        outputs, *inputs = layers[stem].weight.shape
        other = name.replace("lora_A", "lora_B") if "lora_A" in name else name
        rank = part[other].shape[1] if other in part and part[other].ndim > 1 else 0
        shape = (rank, *inputs) if "lora_A" in name else (outputs, rank, *(1 for _ in inputs[1:]))
        if not rank or not _is_like(part[name].shape, shape):
            raise CheckpointError(
                f"{path.name} does not fit this model as a LoRA",
                found=f"{name} {tuple(part[name].shape)}, needed {shape}",
                remedy="check that it is a LoRA for this model",
            )
        part[name] = part[name].reshape(shape)


def _is_like(given: torch.Size, needed: tuple[int, ...]) -> bool:
    return given[:2] == needed[:2] and given[2:].numel() == torch.Size(needed[2:]).numel()


def _check_base(part: Tensors, network: Any, path: Path) -> None:
    widths = {t.shape[1] for name, t in part.items() if _CONTEXT.fullmatch(name)}
    needed = getattr(network.config, "cross_attention_dim", None)
    if needed is not None and widths - {needed}:
        raise CheckpointError(
            f"{path.name} is a LoRA for another base model",
            found=f"one for {base_name(min(widths))}, the model is {base_name(needed)}",
            remedy=f"use a LoRA that was trained for {base_name(needed)}",
        )


def _refuse(what: str, path: Path, names: list[str]) -> None:
    if names:
        raise CheckpointError(
            f"{path.name} does not fit this model as a LoRA",
            found=f"{len(names)} tensors; it {what}: {', '.join(sorted(names)[:8])}",
            remedy="check that it is a LoRA for this model",
        )
