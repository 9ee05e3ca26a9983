"""Every public spelling of a LoRA's keys, computed from the modules of the model that it is for.

Nothing is parsed: underscores of kohya's names mean a dot or an underscore, and `input_blocks_1` is
a prefix of `input_blocks_10`. All names of all modules are made, and keys are looked up.

Sources: kohya-ss/sd-scripts (`lora.py`), diffusers (`lora_conversion_utils.py`,
`state_dict_utils.py`), PEFT, ComfyUI (`lora.py`), tencent-ailab/IP-Adapter (FaceID).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ipa.errors import CheckpointError
from ipa.model.clip import ClipTextSpec
from ipa.model.unet import UNetSpec

from ..tables import clip_text, ldm, unet
from ..tables.layout import Layout, Shape, Tensor
from ..tables.rules import Rename, rename

LoraComponent: TypeAlias = Literal["unet", "text_encoder", "text_encoder_2"]
Role: TypeAlias = Literal["down", "up", "alpha"]

KOHYA: Mapping[LoraComponent, tuple[str, ...]] = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
"""The prefixes of kohya's names."""

_WRAPPER = "base_model.model."  # what PEFT puts around a model
_FLAT = "text_model."  # transformers from 5.6 has no such level in CLIPTextModel
_COMFY = "diffusion_model."
_WEIGHT = ".weight"

# What a key ends with: its role, and the spelling that ends so. PEFT may name the adapter.
_ENDINGS: tuple[tuple[str, Role, str], ...] = (
    (r"\.lora_down\.weight", "down", "kohya"),
    (r"\.lora_up\.weight", "up", "kohya"),
    (r"\.lora_A(?:\.[^.]+)?\.weight", "down", "PEFT"),
    (r"\.lora_B(?:\.[^.]+)?\.weight", "up", "PEFT"),
    (r"\.lora\.down\.weight", "down", "diffusers"),
    (r"\.lora\.up\.weight", "up", "diffusers"),
    (r"\.lora_linear_layer\.down\.weight", "down", "diffusers"),
    (r"\.lora_linear_layer\.up\.weight", "up", "diffusers"),
    (r"_lora\.down\.weight", "down", "diffusers (old)"),
    (r"_lora\.up\.weight", "up", "diffusers (old)"),
    (r"\.alpha", "alpha", ""),
)
_PATTERNS = tuple((re.compile(f"(.+){ending}"), role, word) for ending, role, word in _ENDINGS)
# The last component of an attention's layers, and other words for it.
_UNET_TAILS: Mapping[str, str] = {
    "to_q": "q_proj",
    "to_k": "k_proj",
    "to_v": "v_proj",
    "to_out.0": "out_proj",
}
_TEXT_TAILS: Mapping[str, str] = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "out_proj": "to_out",
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a LoRA file, taken apart.

    Attributes:
        stem: What names the module.
        role: Which of its tensors.
        spelling: Who ends keys so; empty for alphas.
    """

    stem: str
    role: Role
    spelling: str


@dataclass(frozen=True, slots=True)
class LoraModule:
    """A layer that a LoRA may change.

    Attributes:
        component: The network that it is in.
        path: As diffusers and transformers call it.
        target: As our MLX module is called.
        shape: Of its weight, in the checkpoint's layout.
        layout: What becomes of the weight's axes on the way to MLX.
    """

    component: LoraComponent
    path: str
    target: str
    shape: Shape
    layout: Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraTargets:
    """The networks that a LoRA is for; None where the model has no such text encoder."""

    unet: UNetSpec
    text_encoder: ClipTextSpec | None = None
    text_encoder_2: ClipTextSpec | None = None

    def texts(self) -> Iterator[tuple[LoraComponent, ClipTextSpec]]:
        """The model's text encoders, by component."""
        if self.text_encoder is not None:
            yield "text_encoder", self.text_encoder
        if self.text_encoder_2 is not None:
            yield "text_encoder_2", self.text_encoder_2

    def modules(self) -> Iterator[LoraModule]:
        """The layers that a LoRA may change: linear layers and convolutions."""
        yield from _modules("unet", unet.tensors(self.unet), unet.RENAMES)
        for component, spec in self.texts():
            rows = (t for t in clip_text.tensors(spec) if "embedding" not in t.name)
            yield from _modules(component, rows, clip_text.RENAMES)


def split(key: str) -> Key | None:
    """A LoRA key taken apart; None if it is no LoRA's."""
    for pattern, role, spelling in _PATTERNS:
        match = pattern.fullmatch(key)
        if match:
            return Key(match[1], role, spelling)
    return None


def stems(targets: LoraTargets) -> dict[str, LoraModule]:
    """Every layer's names in every spelling, each with its module.

    Raises:
        CheckpointError: Two modules share a name, which no public architecture has.
    """
    paths = [module.path for module in targets.modules() if module.component == "unet"]
    original = {here: there for there, here in ldm.unet_names(paths, targets.unet).items()}
    only = targets.text_encoder_2 is None
    found: dict[str, LoraModule] = {}
    for module in targets.modules():
        if module.component == "unet":
            names = _unet_stems(module.path, original[module.path])
        else:
            names = _text_stems(module.component, module.path, alone=only)
        for name in names:
            if found.setdefault(name, module) != module:
                raise CheckpointError(
                    f"two modules of this model share the LoRA name {name}",
                    found=f"{found[name].path} and {module.path}",
                    remedy="only models of the structure of SD1.x, SD2.x and SDXL are supported",
                )
    return found


def converted_stems(targets: LoraTargets) -> dict[str, LoraModule]:
    """Every layer's names in converted files, each with its module."""
    return {f"{m.component}.{m.target}": m for m in targets.modules()}


def component_of(stem: str) -> LoraComponent | None:
    """The network that a name says it belongs to; None where it does not say."""
    bare = stem.removeprefix(_WRAPPER)
    for component, prefixes in KOHYA.items():
        if bare.startswith((*prefixes, f"{component}.")):
            return component
    return "unet" if bare.startswith(_COMFY) else None


def _modules(
    component: LoraComponent, tensors: Iterable[Tensor], renames: Iterable[Rename]
) -> Iterator[LoraModule]:
    rules = tuple(renames)
    for tensor in tensors:
        if tensor.name.endswith(_WEIGHT) and len(tensor.shape) > 1:
            yield LoraModule(
                component,
                tensor.name.removesuffix(_WEIGHT),
                rename(tensor.name, rules).removesuffix(_WEIGHT),
                tensor.shape,
                tensor.layout,
            )


def _unet_stems(path: str, original: str) -> Iterator[str]:
    """Names of a UNet's layer, from diffusers' and the original path."""
    dotted, underscored = [path], [path, original]
    for tail, word in _UNET_TAILS.items():
        if path.endswith(f".{tail}"):
            attention, short = path.removesuffix(f".{tail}"), tail.removesuffix(".0")
            dotted += [f"{attention}.{short}", f"{attention}.processor.{short}"]
            underscored.append(f"{attention}.{short}")
            # FaceID's early files for SDXL are named so, without a prefix.
            yield from _underscored(f"{attention}.{word}", ("", *KOHYA["unet"]))
    for spelled in underscored:
        yield from _underscored(spelled, KOHYA["unet"])
    yield from _dotted("unet", dotted, alone=True)
    yield f"{_COMFY}{original}"


def _text_stems(component: LoraComponent, path: str, *, alone: bool) -> Iterator[str]:
    """Names of a text encoder's layer; `alone`: no prefix is needed to tell which."""
    dotted = list(dict.fromkeys((path, path.removeprefix(_FLAT))))
    for spelled in dotted:
        yield from _underscored(spelled, KOHYA[component])
    attention, _, tail = path.rpartition(".")
    if tail in _TEXT_TAILS:
        dotted.append(f"{attention}.{_TEXT_TAILS[tail]}")
    yield from _dotted(component, dotted, alone=alone)


def _underscored(path: str, prefixes: Iterable[str]) -> Iterator[str]:
    for prefix in prefixes:
        yield prefix + path.replace(".", "_")


def _dotted(component: LoraComponent, paths: Iterable[str], *, alone: bool) -> Iterator[str]:
    """diffusers' and PEFT's names: the component in front, or nothing where it is the only one."""
    heads = [f"{component}.", f"{component}.{_WRAPPER}", f"{_WRAPPER}{component}."]
    if alone:
        heads += ["", _WRAPPER]
    for path in paths:
        for head in heads:
            yield head + path
