"""Reading LoRA files: every key finds its layer, or the file is refused with all that do not.

Only headers and alphas are read; the matrices are read when they are asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from ipa.errors import CheckpointError
from ipa.model.files import not_finite
from ipa.model.ignoring import NOTHING, REASON, REMEDY, Ignore
from ipa.model.lora import BUNDLED
from ipa.model.sites import base_name

from ..containers.checkpoint import Checkpoint, open_file
from ..containers.dtypes import WEIGHTS
from ..containers.stored import Stored
from ..tables.converted import ConvertedTensor
from ..tables.families import LORA, UNKNOWN, family
from ..tables.layout import Layout, Tensor
from ..tables.matching import Slot, listed
from .alpha import PeftConfig, peft_configs, scalar
from .names import (
    LoraComponent,
    LoraModule,
    LoraTargets,
    Role,
    component_of,
    converted_stems,
    split,
    stems,
)
from .pairs import Lora, LoraPair
from .spellings import Spellings

_CONTEXT = re.compile(r".*attn2[._](?:processor\.)?(?:to_k|k_proj)")
_ABSENT = "of a text encoder that this model has not"
_PEFT_HALVES: Mapping[Role, str] = {"down": "lora_A", "up": "lora_B"}


@dataclass(frozen=True, slots=True)
class _Matching:
    """A file's tensors by layer, and whatever is wrong with them."""

    groups: dict[LoraModule, Spellings] = field(default_factory=lambda: defaultdict(Spellings))
    dropped: dict[str, str] = field(default_factory=dict)
    bundled: dict[str, Stored] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    where: str = ""


def read_lora(
    path: Path,
    targets: LoraTargets,
    *,
    skip: Collection[LoraComponent] = (),
    ignore: Ignore = NOTHING,
) -> Lora:
    """Read a LoRA in any public spelling, or converted, for the model that it changes.

    Args:
        path: A safetensors file, or one of torch.save.
        targets: The networks of the model.
        skip: Networks whose part of the LoRA is left out; it is listed in `Lora.dropped`.
        ignore: What may be left out, if it is no whole pair of matrices of a layer of the model.

    Raises:
        CheckpointError: It is damaged, another kind of network, for another base, or holds a key
            that has no place in the model; all such keys are counted, and the first are named.
    """
    checkpoint = open_file(path)
    _check_kind(checkpoint)
    _check_base(checkpoint, targets)
    matching = _match(checkpoint, targets, skip, ignore)
    configs = peft_configs(checkpoint)
    modules = [module for module in targets.modules() if module in matching.groups]
    found = [_pair(module, matching, configs, checkpoint) for module in modules]
    pairs = [pair for pair in found if pair is not None]
    if matching.problems or not pairs:
        raise _error(checkpoint, matching.problems)
    ignored = [name for name, why in matching.dropped.items() if why == REASON]
    ignore.check(ignored, checkpoint, path.name)
    return Lora(
        where=checkpoint.where,
        base=base_name(targets.unet.context_width),
        pairs={(pair.module.component, pair.module.target): pair for pair in pairs},
        dropped=matching.dropped,
        bundled=matching.bundled,
    )


def context_width(checkpoint: Checkpoint) -> int | None:
    """The width of the text states that a LoRA's cross-attentions read; None if it changes none."""
    for name, stored in checkpoint.items():
        key = split(name)
        if key and key.role == "down" and _CONTEXT.fullmatch(key.stem) and len(stored.shape) > 1:
            return stored.shape[1]
    return None


def _check_kind(checkpoint: Checkpoint) -> None:
    kind = family(checkpoint)
    if kind not in (LORA, UNKNOWN):
        others = [name for name in checkpoint if split(name) is None]
        raise CheckpointError(
            f"{checkpoint.where} is not a plain LoRA",
            found="; ".join((kind, *listed({"keys that no LoRA has": others}))),
            remedy="plain LoRA files of Stable Diffusion are supported, and no others",
        )


def _check_base(checkpoint: Checkpoint, targets: LoraTargets) -> None:
    width, needed = context_width(checkpoint), targets.unet.context_width
    if width not in (None, needed):
        raise CheckpointError(
            f"{checkpoint.where} is a LoRA for another base model",
            found=f"one for {base_name(width or 0)}, the model is {base_name(needed)}",
            remedy=f"use a LoRA that was trained for {base_name(needed)}",
        )


def _match(
    checkpoint: Checkpoint,
    targets: LoraTargets,
    skip: Collection[LoraComponent],
    ignore: Ignore,
) -> _Matching:
    """Assign every tensor to its layer, and note whatever finds none."""
    table = converted_stems(targets) if checkpoint.converted else stems(targets)
    present = {"unet", *(component for component, _ in targets.texts())}
    matching, whole = _Matching(where=checkpoint.where), _whole(checkpoint)
    for name, stored in checkpoint.items():
        key = split(name)
        module = table.get(key.stem) if key else None
        component = module.component if module else component_of(name)
        is_needed = key is not None and key.stem in whole and module is not None
        if ignore.matches(name) and not is_needed:
            matching.dropped[name] = REASON
        elif name.startswith(BUNDLED):
            matching.bundled[name] = stored
        elif component in skip:
            matching.dropped[name] = f"the part for {component}, left out on request"
        elif key is None or module is None:
            absent = component is not None and component not in present
            matching.problems[_ABSENT if absent else "without a place in this model"].append(name)
        elif other := matching.groups[module].put(key, stored):
            matching.problems["given twice"].append(f"{other.name} and {name}")
    return matching


def _whole(names: Iterable[str]) -> set[str]:
    """The stems of layers that have both matrices."""
    halves: dict[str, set[str]] = defaultdict(set)
    for key in filter(None, map(split, names)):
        halves[key.stem].add(key.role)
    return {stem for stem, roles in halves.items() if {"down", "up"} <= roles}


def _pair(
    module: LoraModule,
    matching: _Matching,
    configs: Mapping[str, PeftConfig],
    checkpoint: Checkpoint,
) -> LoraPair | None:
    """A layer's pair; None, with a problem noted, if it is not in order."""
    problems = matching.problems
    stored, others = matching.groups[module].chosen()
    matching.dropped.update(others)
    missing = {"down", "up"} - stored.keys()
    if missing:
        present = [stored[role] for role in ("down", "up") if role in stored]
        kind = "without the other half" if present else "without a pair"
        problems[kind] += [part.name for part in present or stored.values()]
        return None
    rank = stored["down"].shape[0] if stored["down"].shape else 0
    halves = {}
    for role in _PEFT_HALVES:
        slot = _slot(module, role, rank, converted=checkpoint.converted)
        fault = _fault(slot, stored[role])
        if fault:
            problems[fault].append(
                f"{stored[role].name} ({stored[role].dtype} {stored[role].shape}), "
                f"needed {slot.shape}"
            )
        halves[role] = ConvertedTensor(
            name=slot.target, tensor=slot.tensor, layout=slot.layout, stored=stored[role]
        )
    if rank == 0:
        return None
    alpha = _alpha(module, stored, rank, matching, configs)
    return LoraPair(module=module, down=halves["down"], up=halves["up"], alpha=alpha)


def _slot(module: LoraModule, role: Role, rank: int, *, converted: bool) -> Slot:
    """A half's shape, as it must be. Matrices may be stored as 1×1 convolutions, or the reverse."""
    outputs, *inputs = module.shape
    shape = (rank, *inputs) if role == "down" else (outputs, rank, *(1,) * len(inputs[1:]))
    spatial = role == "down" and module.layout is Layout.CONVOLUTION
    layout = Layout.CONVOLUTION if spatial else Layout.POINTWISE
    name = f"{module.component}.{module.path}.{_PEFT_HALVES[role]}.weight"
    return Slot(
        tensor=Tensor(name, shape, layout),
        target=f"{module.component}.{module.target}.lora_{role}.weight",
        layout=Layout.AS_IS if converted else layout,
    )


def _fault(slot: Slot, stored: Stored) -> str:
    """What is wrong with a half; empty if nothing is."""
    if prod(stored.shape) == 0 or not slot.layout.accepts(slot.shape, stored.shape):
        return "of another shape"
    return "" if stored.dtype in WEIGHTS else "of an unsupported type"


def _alpha(
    module: LoraModule,
    stored: Mapping[Role, Stored],
    rank: int,
    matching: _Matching,
    configs: Mapping[str, PeftConfig],
) -> float | None:
    """A layer's alpha, from its tensor or from PEFT's configuration, never from both."""
    config = configs.get(module.component, configs.get(""))
    tensor = stored.get("alpha")
    if tensor is None:
        return None if config is None else config.alpha_of(module, rank, matching.where)
    value = scalar(tensor)
    if config is not None:
        matching.problems["of an alpha that the metadata state too"].append(tensor.name)
    if value is None and tensor.dtype in WEIGHTS and prod(tensor.shape) == 1:
        raise not_finite(matching.where, tensor.name, 0, 1)
    if value is None:
        matching.problems["that should be one finite number"].append(
            f"{tensor.name} ({tensor.dtype} {tensor.shape})"
        )
    return value


def _error(checkpoint: Checkpoint, problems: Mapping[str, list[str]]) -> CheckpointError:
    remedy = f"check that it is a LoRA for this model; {REMEDY}"
    if _ABSENT in problems:
        remedy = f"use a model with that text encoder; {REMEDY}"
    return CheckpointError(
        f"{checkpoint.where} does not fit this model as a LoRA",
        found=". ".join(listed(problems)) or "no pair of matrices",
        remedy=remedy,
    )
