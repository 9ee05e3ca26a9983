"""What is said of small files beside a model: IP-Adapters, LoRAs, learned words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ipa.errors import CheckpointError
from ipa.model.adapter import AdapterSpec, Projector
from ipa.model.adapter_kinds import adapter_kinds
from ipa.model.files import container
from ipa.model.lora import BUNDLED
from ipa.model.sites import base_name

from ..containers.checkpoint import Checkpoint, open_file
from ..containers.dtypes import WEIGHTS
from ..containers.torch_save.torch_file import open_embeddings
from ..lora.alpha import peft_configs, scalar
from ..lora.names import Key, component_of, split
from ..lora.reading import context_width
from ..reading.adapter_sites import adapter_sites, find_sites
from ..tables import ip_adapter
from .description import Facts

_STRUCTURES: Mapping[Projector, str] = {
    "linear": "linear",
    "mlp": "mlp",
    "resampler": "resampler",
    "faceid": "face MLP",
    "faceid_plus": "face MLP and resampler",
}


_FROZEN = ("unet.", "image_encoder.")  # in a training's checkpoint


def adapter_facts(checkpoint: Checkpoint) -> Facts:
    """Describe an IP-Adapter: variant, base and encoder; tokens and LoRA as remarks."""
    checkpoint = ip_adapter.normal(checkpoint)
    sites = adapter_sites(checkpoint)
    base = next((base_name(context) for _, context in sites.values()), "")
    count = f"{len(sites)} cross-attention sites"
    try:
        spec = ip_adapter.detect(checkpoint)
    except CheckpointError as error:
        return Facts(variant="unknown", base=base, remarks=(count, f"not supported: {error.found}"))
    return Facts(
        variant=_variant(spec),
        base=base,
        encoder=spec.encoder_needed,
        remarks=(count, *_remarks(spec, checkpoint)),
    )


def _variant(spec: AdapterSpec) -> str:
    """The adapter's structure, and the public names that files of it have."""
    structure = _STRUCTURES[spec.projector]
    names = (spec.kind,) if spec.kind else adapter_kinds(spec).names
    return f"{structure} ({_alternatives(names) or 'of no public kind'})"


def _alternatives(names: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _remarks(spec: AdapterSpec, checkpoint: Checkpoint) -> Iterator[str]:
    per = "face" if spec.face_width else "picture"
    yield f"{spec.tokens or 'one per patch'} tokens per {per}"
    if spec.lora_rank:
        yield f"with a LoRA of rank {spec.lora_rank} on all attentions"
    if frozen := sum(name.startswith(_FROZEN) for name in checkpoint):
        yield f"{frozen} tensors of a frozen base model or encoder beside it, which are left out"
    if find_sites(checkpoint) is None:
        yield "its numbers and widths of sites are those of no known base"
    if not spec.kind:
        yield from _open_questions(spec, checkpoint.where)
    if not spec.is_runnable:
        yield "it can be converted, but not generated with"


def _open_questions(spec: AdapterSpec, where: str) -> Iterator[str]:
    kinds = adapter_kinds(spec)
    if len(kinds.names) > 1:
        need = ", and converting needs to know (kind=)" if kinds.is_decisive else ""
        yield f"its tensors do not tell {_alternatives(kinds.names)}{need}"
    suggested = kinds.suggested(where)
    if suggested and len(kinds.names) > 1:
        yield f"its name suggests {suggested}"


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
    """Describe a LoRA."""
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
        base=_lora_base(checkpoint, layers),
        remarks=tuple(remarks),
    )


def _component(stem: str) -> str:
    named = component_of(stem)
    if named is not None:
        return named
    return "text_encoder" if any(word in stem for word in _TEXT) else "unet"


def _lora_base(checkpoint: Checkpoint, layers: Mapping[str, int]) -> str:
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
    ordered = sorted(set(values))
    if not ordered:
        return "unknown"
    low, high = ordered[0], ordered[-1]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _alpha(checkpoint: Checkpoint, keys: Mapping[str, Key]) -> str:
    """The alphas that a LoRA states, by tensors or by PEFT's configuration."""
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


TITLE = "textual inversion"


_TRAINED = re.compile(r"string_to_param\.")  # beside which A1111 and the authors keep more


_UNNAMED = {"emb_params", "*"}


_ENCODERS = ({"clip_l", "clip_g"}, {"text_encoders_0", "text_encoders_1"})


_WIDTHS_XL = {768, 1280}


_WIDTHS = {768, 1024, 1280}  # of the text encoders of Stable Diffusion


def open_any(path: Path) -> Checkpoint:
    """Open a file's checkpoint, also a textual inversion's, alone or saved with its training.

    Raises:
        CheckpointError: See `open_file`; a file that is neither is told of as a checkpoint.
    """
    try:
        found = open_file(path)
    except CheckpointError:
        word = _learned(path)
        if word is None:
            raise
        return word
    return (_learned(path) or found) if any(map(_TRAINED.match, found)) else found


def _learned(path: Path) -> Checkpoint | None:
    kind = container(path)
    if kind == "safetensors":
        return None
    try:
        word = Checkpoint(str(path), open_embeddings(path, kind), converted=False)
    except CheckpointError:
        return None
    return word if is_inversion(word) else None


def is_inversion(checkpoint: Checkpoint) -> bool:
    """Whether a file is a textual inversion: one embedding tensor, or one for each SDXL encoder.

    A lone tensor of a name that could be anything is one if a text encoder has its width.
    """
    if any(t.dtype not in WEIGHTS or len(t.shape) not in {1, 2} for t in checkpoint.values()):
        return False
    if len(checkpoint) != 1:
        return set(checkpoint) in _ENCODERS
    ((name, tensor),) = checkpoint.items()
    return name in _UNNAMED or name.startswith("<") or tensor.shape[-1] in _WIDTHS


def inversion_facts(checkpoint: Checkpoint) -> Facts:
    """Describe a textual inversion: its word, its number of embeddings, its text encoder."""
    shapes = {name: tensor.shape for name, tensor in checkpoint.items()}
    rows = {shape[0] if len(shape) == 2 else 1 for shape in shapes.values()}
    words = [name for name in shapes if len(shapes) == 1 and name not in _UNNAMED]
    return Facts(
        variant=_counted(max(rows)),
        base=_inversion_base(shapes),
        remarks=(
            f"its word is {words[0]!r}" if words else "its word is the file's name, or any other",
        ),
    )


def _counted(rows: int) -> str:
    return "one embedding" if rows == 1 else f"{rows} embeddings"


def _inversion_base(shapes: Mapping[str, tuple[int, ...]]) -> str:
    widths = {shape[-1] for shape in shapes.values()}
    if len(shapes) == 2:
        return "SDXL" if widths == _WIDTHS_XL else ""
    return base_name(widths.pop())
