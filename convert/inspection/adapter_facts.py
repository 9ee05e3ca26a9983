"""What can be told of an adapter's file, and what only a person knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ipa.contract.adapter import AdapterSpec, Projector
from ipa.contract.adapter_kinds import adapter_kinds
from ipa.contract.base_sites import base_name
from ipa.contract.errors import CheckpointError

from ..containers.checkpoint import Checkpoint
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
    """Variant, base and encoder; tokens, LoRA and open questions as remarks."""
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
    """The structure, and the public names that files of it have."""
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
