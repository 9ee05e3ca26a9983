"""What can be told of a LoRA file without a model, from its names and shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ipa.contract.base_sites import base_name
from ipa.contract.errors import CheckpointError
from ipa.contract.lora import BUNDLED

from ..containers.checkpoint import Checkpoint
from ..lora.lora_alpha import peft_configs, scalar
from ..lora.lora_names import Key, component_of, split
from ..lora.lora_plan import context_width
from .description import Facts

_TAILS = ("to_q", "to_k", "to_v", "to_out", "to_out_0", "to_out.0")
_FACE_TAILS = (*_TAILS, "q_proj", "k_proj", "v_proj", "out_proj")
_ORIGINAL = ("input_blocks", "middle_block", "output_blocks")
_MAX_REMARK = 120
_LONGEST = 40  # characters of a name that a file gives itself
_TEXT = ("self_attn", "text_model", "text_projection")
# FaceID's own LoRA: its rank, and four layers in every one of 32 or 140 attentions.
_FACE_RANK = 128
_FACE_LAYERS = (4 * 32, 4 * 140)


def lora_facts(checkpoint: Checkpoint) -> Facts:
    """What is known of a LoRA."""
    keys = {name: key for name in checkpoint if (key := split(name))}
    downs = {name: key for name, key in keys.items() if key.role == "down"}
    layers = Counter(_component(key.stem) for key in downs.values())
    ranks = [shape[0] for name in downs if (shape := checkpoint[name].shape)]
    remarks = [
        ", ".join(f"{count} layers of {part}" for part, count in sorted(layers.items())),
        f"rank {_range(ranks)}",
        _alpha(checkpoint, keys),
    ]
    if _is_face(downs.values(), ranks):
        remarks.append(
            "it may be that of an IP-Adapter FaceID, whose .bin holds the same LoRA: apply one only"
        )
    bundled = sorted(
        {name.removeprefix(BUNDLED) for name in checkpoint if name.startswith(BUNDLED)}
    )
    if bundled:
        remarks.append(f"learned words lie in it: {', '.join(bundled[:3])}"[:_MAX_REMARK])
    strange = [n for n in checkpoint if n not in keys and not n.startswith(BUNDLED)]
    if strange:
        remarks.append(f"not of a plain LoRA: {', '.join(strange[:3])}")
    return Facts(
        variant=_spelling(checkpoint, downs.values()),
        base=_base(checkpoint, layers),
        remarks=tuple(remarks),
    )


def _component(stem: str) -> str:
    named = component_of(stem)
    if named is not None:
        return named
    return "text_encoder" if any(word in stem for word in _TEXT) else "unet"


def _base(checkpoint: Checkpoint, layers: Mapping[str, int]) -> str:
    width = context_width(checkpoint)
    if width is not None:
        return base_name(width)
    if checkpoint.converted:
        return checkpoint.metadata.get("base", "")[:_LONGEST]
    return "SDXL" if "text_encoder_2" in layers else ""


def _spelling(checkpoint: Checkpoint, downs: Iterable[Key]) -> str:
    if checkpoint.converted:
        return "MLX"
    stems = [key.stem for key in downs]
    words = sorted({key.spelling for key in downs})
    if any(word in stem for stem in stems for word in _ORIGINAL):
        words.append("original block names")
    return ", ".join(words)


def _range(values: Iterable[float]) -> str:
    known = sorted(set(values))
    if not known:
        return "unknown"
    low, high = known[0], known[-1]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _alpha(checkpoint: Checkpoint, keys: Mapping[str, Key]) -> str:
    """The alphas that are stated, by tensors or by PEFT's configuration."""
    stored = [checkpoint[name] for name, key in keys.items() if key.role == "alpha"]
    values = [value for tensor in stored if (value := scalar(tensor)) is not None]
    try:
        values += [config.alpha for config in peft_configs(checkpoint).values()]
    except CheckpointError as error:
        return f"not supported: {error.what}"
    return f"alpha {_range(values)}" if values else "no alpha: the product counts once"


def _is_face(downs: Iterable[Key], ranks: Iterable[int]) -> bool:
    stems = [key.stem for key in downs]
    return (
        len(stems) in _FACE_LAYERS
        and set(ranks) == {_FACE_RANK}
        and all("attn" in stem and stem.endswith(_FACE_TAILS) for stem in stems)
        and all(_component(stem) == "unet" for stem in stems)
    )
