"""Names of single files' tensors in diffusers' and transformers' modules.

UNet and VAE are named by diffusers' own conversions, which are given marks in place of tensors:
what they pass over in silence is then known. They read what latent-diffusion wrote; what else is
about is brought into that form first: autoencoders whose attention diffusers' own script named
half, text encoders without their level `text_model`, older names of diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)

Names: TypeAlias = dict[str, str]
"""A tensor's name in the file, by its name in the module."""

_VAE_WHOLE = (
    # diffusers' script of 2023 wrote the attention of newer autoencoders under their own names.
    (r"((?:en|de)coder\.mid\.attn_1)\.to_([qkv])\.", r"\1.\2."),
    (r"((?:en|de)coder\.mid\.attn_1)\.to_out\.0\.", r"\1.proj_out."),
    # diffusers before 0.17
    (r"((?:en|de)coder\.mid_block\.attentions\.0)\.query\.", r"\1.to_q."),
    (r"((?:en|de)coder\.mid_block\.attentions\.0)\.key\.", r"\1.to_k."),
    (r"((?:en|de)coder\.mid_block\.attentions\.0)\.value\.", r"\1.to_v."),
    (r"((?:en|de)coder\.mid_block\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
)
_UNET_ROOT, _VAE_ROOT = "model.diffusion_model.", "first_stage_model."
_VAE_IDLE = re.compile(r"(?:loss|model_ema)\..+")  # of its training


class _Mark:
    """A placeholder for a tensor in diffusers' conversions, which ask for shapes and slices."""

    shape: tuple[int, ...] = ()
    ndim = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, _: object) -> _Mark:
        return self


@dataclass(frozen=True)
class Spelling:
    """The tensors of one network in a file, by name.

    Attributes:
        names: Where each of its tensors is.
        idle: What belongs to its training, or to a part that this model has not.
        surplus: What it does not know.
        missing: What it lacks, by the name that would be looked for.
    """

    names: Names
    idle: tuple[str, ...]
    surplus: tuple[str, ...]
    missing: tuple[str, ...] = ()


def unet_spelling(
    given: Iterable[str], prefix: str, keys: Collection[str], config: Any
) -> Spelling:
    """A UNet's tensors among names that begin with a prefix."""
    bare = {name.removeprefix(prefix): name for name in given}
    return _converted(bare, keys, lambda m: convert_ldm_unet_checkpoint(m, config), _UNET_ROOT)


def vae_spelling(given: Iterable[str], prefix: str, keys: Collection[str], config: Any) -> Spelling:
    """An autoencoder's tensors among names that begin with a prefix, in any spelling."""
    bare_names = {name.removeprefix(prefix): name for name in given}
    idle = tuple(name for bare, name in bare_names.items() if _VAE_IDLE.fullmatch(bare))
    used = {bare: name for bare, name in bare_names.items() if name not in idle}
    bare = {_renamed(name, _VAE_WHOLE): stored for name, stored in used.items()}
    found = _converted(bare, keys, lambda m: convert_ldm_vae_checkpoint(m, config), _VAE_ROOT)
    twice = set(used.values()) - set(bare.values())
    return replace(found, idle=idle, surplus=(*found.surplus, *sorted(twice)))


def controlnet_spelling(
    given: Iterable[str], prefix: str, keys: Collection[str], config: Any
) -> Spelling:
    """A ControlNet's tensors among names that begin with a prefix."""
    bare = {name.removeprefix(prefix): name for name in given}

    def convert(marks: dict[str, Any]) -> dict[str, Any]:
        is_original = "time_embed.0.weight" in marks
        return convert_controlnet_checkpoint(marks, config) if is_original else {}

    return _converted(bare, keys, convert, "")


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name, count = re.subn(rf"^{pattern}", replacement, name)
        if count:
            break
    return name


def _converted(
    bare: Mapping[str, str],
    keys: Collection[str],
    convert: Callable[[dict[str, Any]], dict[str, Any]],
    root: str,
) -> Spelling:
    """diffusers' conversion of marks; what has a module's name already keeps it."""
    others = {root + name: _Mark(stored) for name, stored in bare.items() if name not in keys}
    marks = convert(others) if others else {}
    names = {key: mark.name for key, mark in marks.items() if key in keys and mark is not None}
    names |= {name: stored for name, stored in bare.items() if name in keys}
    used = set(names.values())
    missing = tuple(key for key in keys if key not in names)
    return Spelling(names, (), tuple(n for n in bare.values() if n not in used), missing)


_TEXT_OUTER = re.compile(
    r"(?:(?:clip_[lgh]|text|model)\.)?(?:transformer\.)?"
    r"(?=(?:text_model|embeddings|encoder|final_layer_norm)\.|text_projection\.weight$)"
)
_FLAT = re.compile(r"(?:embeddings|encoder|final_layer_norm)\.")
# Of a layer in OpenCLIP.
_PARTS = (
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    *(
        f"{part}.{kind}"
        for part in ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
        for kind in ("weight", "bias")
    ),
)
_OPEN_CLIP = ("token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias")
_IDLE = re.compile(
    r"(?:.+\.)?position_ids|logit_scale|attn_mask|input_resolution|context_length|vocab_size"
    r"|(?:vision_model|visual)\..+|visual_projection\.weight"
)
_PROJECTION = ("text_projection", "text_projection.weight")
_NO_PROJECTION = "text_model.text_projection.weight"  # it lies beside that level
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_CUT = 23  # of ViT-H's 24 layers: Stable Diffusion 2 reads the states that enter the last


def text_spelling(given: Iterable[str], prefix: str, keys: Collection[str]) -> Spelling:
    """A text encoder's tensors by the names that diffusers' loader looks for, without prefix.

    Args:
        given: Names that begin with the prefix.
        prefix: The place of this encoder in the file.
        keys: The names of the module's tensors.
    """
    plain = {_text_name(name.removeprefix(prefix)): name for name in given}
    is_projected = "text_projection.weight" in keys
    layers = len({match[1] for match in map(_LAYER.search, keys) if match})
    needed = {f"text_model.{key.removeprefix('text_model.')}" for key in keys} - {_NO_PROJECTION}
    if "token_embedding.weight" in plain:
        needed = set(_OPEN_CLIP)
        needed |= {f"transformer.resblocks.{n}.{part}" for n in range(layers) for part in _PARTS}
    needed |= set(_PROJECTION if is_projected else ())
    idle = [n for n in plain if n not in needed and _IDLE.fullmatch(n)]
    if not is_projected:
        last = re.compile(rf"(?:transformer\.resblocks|.+\.layers)\.{layers}\..+")
        idle += [n for n in plain if n in _PROJECTION or (layers == _CUT and last.fullmatch(n))]
    names = {name: stored for name, stored in plain.items() if name in needed}
    surplus = [stored for name, stored in plain.items() if name not in needed and name not in idle]
    missing = needed - names.keys() - ({*_PROJECTION} if names.keys() & {*_PROJECTION} else set())
    return Spelling(names, tuple(plain[n] for n in idle), tuple(surplus), tuple(sorted(missing)))


def _text_name(name: str) -> str:
    """A name with the level that transformers had up to 5.5, without what wraps it."""
    inner = _TEXT_OUTER.sub("", name, count=1) if _TEXT_OUTER.match(name) else name
    return f"text_model.{inner}" if _FLAT.match(inner) else inner
