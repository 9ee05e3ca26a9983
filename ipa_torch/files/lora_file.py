"""LoRA files: names of layers are looked up, others go by diffusers' conversions; none is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ipa.errors import CheckpointError
from ipa.model.files import container
from ipa.model.ignoring import NOTHING, REASON, REMEDY, Ignore
from ipa.model.lora import BUNDLED, DIFFERENT, EQUAL
from ipa.model.sites import base_name

from .weights import MALFORMED, check_finite, quiet, read_tensors, reason, require_weights

Tensors: TypeAlias = dict[str, torch.Tensor]
Parts: TypeAlias = dict[str, Tensors]
"""A LoRA's tensors by network, as PEFT names them."""
Networks: TypeAlias = Mapping[str, torch.nn.Module]

_METADATA = "lora_adapter_metadata"  # diffusers keeps PEFT's configuration there
_TEXTS = ("text_encoder", "text_encoder_2")
_KOHYA_OF: Mapping[str, tuple[str, ...]] = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
_KOHYA = tuple(prefix for prefixes in _KOHYA_OF.values() for prefix in prefixes)
_KOHYA_UP = ".lora_up.weight"
_HALVES = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
_ORIGINAL = re.compile(
    r"input_blocks|middle_block|output_blocks|label_emb|time_embed[._]\d|unet_out[._]\d"
)
_CONTEXT = re.compile(r".*attn2\.to_k\.lora_A\.weight")
_DOWN = re.compile(r".+(?:\.lora_down|\.lora_A|\.lora\.down|_layer\.down|_lora\.down)\.weight")
_UP = re.compile(r".+(?:\.lora_up|\.lora_B|\.lora\.up|_layer\.up|_lora\.up)\.weight")
_HALF = re.compile(
    r"(?:\.lora_(?:down|up|A|B)|(?:\.lora|_layer|_lora)\.(?:down|up))(?:\..+)?\.weight$"
)
_COMFY = re.compile(r"diffusion_model\.(.+)\.lora_(A|B)\.weight")  # kohya's for diffusers
# PEFT's names that diffusers does not read: an adapter's name inside, a wrapper around.
_SPELLED = ((r"(\.lora_[AB])\.[^.]+\.weight$", r"\1.weight"), (r"base_model\.model\.", ""))


def read_lora(
    path: Path, networks: Networks, ignore: Ignore = NOTHING
) -> tuple[dict[str, Tensors], dict[str, Any], dict[str, str]]:
    """The matrices of each network, as PEFT names them, and PEFT's configuration if there is one.

    The alphas of other files are within the matrices: diffusers 0.42 forgets those of kohya's that
    differ from the most frequent one.

    Args:
        path: The file.
        networks: "unet", "text_encoder" and, for SDXL, "text_encoder_2".
        ignore: What may be left out, if it is no whole pair of matrices of a layer.

    Returns:
        By network "<path>.lora_A.weight" and "….lora_B.weight", in float32 and in the shapes that
        their layers need; the configurations' fields, "unet.lora_alpha" and so on; and the names
        of tensors that are not used, with the reason.

    Raises:
        CheckpointError: It is damaged, or a tensor has no layer in this model.
    """
    tensors, config = _read(path)
    asked = {name: t for name, t in tensors.items() if ignore.matches(name)}
    gone = asked.keys() - _needed(asked, tensors, networks, path)
    ignore.check(gone, tensors, path.name)
    tensors = {k: t for k, t in tensors.items() if k not in gone and not k.startswith(BUNDLED)}
    origin = {_spelled(name): name for name in tensors}
    if len(origin) < len(tensors):
        twice = [name for name in tensors if origin[_spelled(name)] != name]
        _refuse("gives some tensors twice under one name", path, twice)
    tensors = _with_alphas({_spelled(name): t.float() for name, t in tensors.items()}, path)
    count = sum(bool(_DOWN.fullmatch(name)) for name in tensors)
    _refuse("holds what no LoRA has", path, [n for n in tensors if not _known(n)])
    names = {id(tensor): origin[name] for name, tensor in tensors.items()}
    parts, left_out = _chosen(_by_spelling(tensors, networks, path), names)
    absent = [n for part in parts.keys() - networks.keys() for n in parts[part]]
    _refuse("is for a text encoder that this model has not", path, absent)
    for name, part in parts.items():
        _fit(part, networks[name], path)
    if sum(len(part) for part in parts.values()) + len(left_out) != 2 * count or not count:
        raise _unread(path, f"{count} pairs, of which it read {sum(map(len, parts.values())) // 2}")
    alphas = {f"{n.removesuffix(_KOHYA_UP)}.alpha": n for n in left_out if n.endswith(_KOHYA_UP)}
    left_out |= {alpha: left_out[n] for alpha, n in alphas.items() if alpha in origin}
    left_out |= dict.fromkeys(gone, REASON)
    return {name: part for name, part in parts.items() if part}, config, left_out


def _needed(asked: Tensors, tensors: Tensors, networks: Networks, path: Path) -> set[str]:
    """Those of some tensors that are of a whole pair of a layer of this model; with alphas."""
    halves: dict[str, list[str]] = {}
    for name in filter(_known, tensors):
        halves.setdefault(_HALF.sub("", name), []).append(name)
    heads = {name: _HALF.sub("", name).removesuffix(".alpha") for name in asked}
    pairs = {h: {n: tensors[n] for n in halves.get(h, ())} for h in heads.values()}
    pairs = {head: pair for head, pair in pairs.items() if len(pair) == 2}
    try:
        placed = _placed({n: t for pair in pairs.values() for n, t in pair.items()}, networks, path)
    except CheckpointError:  # diffusers cannot read one of them
        placed = set()
        for pair in pairs.values():
            with suppress(CheckpointError):
                placed |= _placed(pair, networks, path)
    return {name for name, head in heads.items() if placed & set(pairs.get(head, ()))}


def _placed(pairs: Tensors, networks: Networks, path: Path) -> set[str]:
    """The names of matrices that have a layer in this model."""
    spelled = {_spelled(name): t.float() for name, t in pairs.items()}
    names = {id(t): name for t, name in zip(spelled.values(), pairs, strict=True)}
    layers = {part: _layers(network) for part, network in networks.items()}
    return {
        names[id(tensor)]
        for parts in (_by_spelling(spelled, networks, path) if pairs else ())
        for part, found in parts.items()
        for place, tensor in found.items()
        if place.rpartition(".lora_")[0] in layers.get(part, ())
    }


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
    check_finite(tensors, str(path))
    settings = path.with_name("adapter_config.json")
    if path.stem == "adapter_model" and settings.is_file():  # PEFT's own folder, of a UNet
        config = {f"unet.{key}": value for key, value in json.loads(settings.read_text()).items()}
    return tensors, config


def _spelled(name: str) -> str:
    for pattern, replacement in _SPELLED:
        name = re.sub(pattern, replacement, name)
    comfy = _COMFY.fullmatch(name)
    if comfy:
        half = {"A": "down", "B": "up"}[comfy[2]]
        return f"lora_unet_{comfy[1].replace('.', '_')}.lora_{half}.weight"
    says_where = name.startswith((*_KOHYA, *(f"{part}." for part in ("unet", *_TEXTS))))
    return name if says_where or not re.match(r"[a-z_]+\.", name) else f"unet.{name}"


def _known(name: str) -> bool:
    return bool(_DOWN.fullmatch(name) or _UP.fullmatch(name))


def _with_alphas(tensors: Tensors, path: Path) -> Tensors:
    """The tensors with each alpha multiplied into its layer's upper matrix."""
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


def _by_spelling(tensors: Tensors, networks: Networks, path: Path) -> list[Parts]:
    """The tensors by spelling, each read by itself: a file may hold a layer in several."""
    groups: dict[tuple[int, str], Tensors] = {}
    for name, tensor in tensors.items():
        groups.setdefault(_group(name), {})[name] = tensor
    found = []
    for group in groups.values():
        placed, rest = _looked_up(group, networks)
        try:
            with quiet():
                others = _parts(rest, networks) if rest else {}
        except MALFORMED as error:
            raise _unread(path, reason(error)) from error
        for part, more in others.items():
            placed.setdefault(part, {}).update(more)
        found.append(placed)
    return found


def _level(name: str) -> int:
    """The rank of a spelling in diffusers: dotted names first, then its blocks, then original."""
    if _ORIGINAL.search(name):
        return 0
    return 2 if "." in (name.rpartition(".lora")[0] or name) else 1


def _group(name: str) -> tuple[int, str]:
    """The level of a spelling, and what tells it from others of that level."""
    if name.startswith(_KOHYA):
        return _level(name), next(prefix for prefix in _KOHYA if name.startswith(prefix))
    return _level(name), re.sub("down|up|A|B", "", name.rpartition(".lora")[2]) + str(
        ".processor." in name
    )


def _chosen(found: list[Parts], names: Mapping[int, str]) -> tuple[Parts, dict[str, str]]:
    """One pair for each layer, and the names of the others, with the reason.

    Of names that diffusers treats alike the last in the alphabet is taken, as it stands last.
    """
    pairs: dict[tuple[str, str], list[Tensors]] = {}
    for parts in found:
        for part, matrices in parts.items():
            for stem in dict.fromkeys(name.rpartition(".lora_")[0] for name in matrices):
                halves = {
                    n: matrices[n]
                    for half in "AB"
                    if (n := f"{stem}.lora_{half}.weight") in matrices
                }
                pairs.setdefault((part, stem), []).append(halves)
    chosen: Parts = {}
    left_out: dict[str, str] = {}
    for (part, _), several in pairs.items():
        spelled = {id(pair): names[id(next(iter(pair.values())))] for pair in several}
        best = max(several, key=lambda pair: (_level(spelled[id(pair)]), spelled[id(pair)]))
        chosen.setdefault(part, {}).update(best)
        for pair in several:
            if pair is not best:
                why = EQUAL if _is_same(pair, best) else DIFFERENT
                left_out |= {names[id(tensor)]: why for tensor in pair.values()}
    return chosen, left_out


def _is_same(one: Tensors, other: Tensors) -> bool:
    """Whether two pairs are equal, alphas included."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name].reshape(-1), other[name].reshape(-1)) for name in one
    )


def _looked_up(tensors: Tensors, networks: Networks) -> tuple[Parts, Tensors]:
    """kohya's names of known layers, by network, as PEFT has them; and all other names.

    diffusers takes such names apart, and loses the numbers of add_embedding's layers.
    """
    table = {
        f"{prefix}{spelled.replace('.', '_')}": (part, path)
        for part, network in networks.items()
        for path in _layers(network)
        for spelled in (path, path.removeprefix("text_model."), f"text_model.{path}")
        for prefix in _KOHYA_OF[part]
    }
    found: Parts = {}
    rest: Tensors = {}
    for name, tensor in tensors.items():
        stem, _, half = name.partition(".")
        place = table.get(stem)
        if place is None or half not in _HALVES:
            rest[name] = tensor
        else:
            part, path = place
            found.setdefault(part, {})[f"{path}.{_HALVES[half]}"] = tensor
    return found, rest


def _parts(tensors: Tensors, networks: Networks) -> Parts:
    """The tensors by network, as PEFT names them; names that diffusers drops are missing."""
    unet: Any = networks["unet"]  # diffusers renames the original blocks of SDXL alone
    state, *_ = StableDiffusionLoraLoaderMixin.lora_state_dict(
        dict(tensors), unet_config=unet.config
    )
    parts: Parts = {}
    for name in ("unet", *_TEXTS):
        matrices = {
            k.removeprefix(f"{name}."): t for k, t in state.items() if k.startswith(f"{name}.")
        }
        if not matrices:
            continue
        if name == "unet":
            matrices = (
                matrices
                if "lora_A" in next(iter(matrices))
                else convert_unet_state_dict_to_peft(matrices)
            )
        else:
            for kind in (StateDictType.DIFFUSERS_OLD, StateDictType.DIFFUSERS):
                matrices = convert_state_dict_to_peft(
                    matrices, kind
                )  # its guess goes by what is not there
            matrices = {_in_text(key, networks.get(name)): t for key, t in matrices.items()}
        parts[name] = matrices
    return parts


def _in_text(key: str, network: torch.nn.Module | None) -> str:
    """A text encoder's names as its class has them: without `text_model` since transformers 5.6."""
    bare = key.removeprefix("text_model.")
    return f"text_model.{bare}" if hasattr(network, "text_model") and "encoder." in bare else bare


def _layers(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The layers that a LoRA may change by path, whatever PEFT has put around them."""
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and ".lora_" not in name
    }
    return {name.removesuffix(".base_layer"): module for name, module in layers.items()}


def _fit(part: Tensors, network: torch.nn.Module, path: Path) -> None:
    """Check every pair against its layer's shapes: a matrix may be stored as a 1×1 convolution."""
    layers = _layers(network)
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
                remedy=f"check that it is a LoRA for this model; {REMEDY}",
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


def _unread(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"diffusers does not know all names in {path.name}",
        found=found,
        remedy=f"use the mlx backend, or a file in kohya's or PEFT's names; {REMEDY}",
    )


def _refuse(what: str, path: Path, names: list[str]) -> None:
    if names:
        raise CheckpointError(
            f"{path.name} does not fit this model as a LoRA",
            found=f"{len(names)} tensors; it {what}: {', '.join(sorted(names)[:8])}",
            remedy=f"check that it is a LoRA for this model; {REMEDY}",
        )
