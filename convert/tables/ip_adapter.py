"""IP-Adapter files in the naming of the original repository (tencent-ailab/IP-Adapter)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ipa.errors import CheckpointError
from ipa.model.adapter import AdapterSpec
from ipa.model.adapter_shapes import detect_adapter
from ipa.model.sites import Site

from ..containers.checkpoint import Checkpoint, open_file
from .adapter_description import DESCRIPTION, parse_description
from .adapter_spellings import ALIASES, aliases, join_keys_values
from .ip_adapter_projectors import RENAMES, projector_tensors
from .layout import Tensor
from .modules import linear
from .named_sites import number_sites
from .rules import Drop, Rename, rename
from .table import Table

TITLE = "IP-Adapter"

DROPS = (
    Drop("unet.**", "the frozen base model, which a training checkpoint repeats"),
    Drop("image_encoder.**", "the frozen image encoder, which a training checkpoint repeats"),
)
_LORA_PARTS = ("q", "k", "v", "out")
# A site to describe a file by before those of its base are known.
_ANY_SITE = Site(1, "attn2", "mid", 0, 0, 64)


def open_adapter(path: Path, sites: tuple[Site, ...] | None = None) -> Checkpoint:
    """Open an adapter's file, attentions by number. Raises CheckpointError as `open_file` does.

    Args:
        path: The file.
        sites: Those of the UNet that it is for, if they are known (`named_sites`).
    """
    return normal(open_file(path), sites)


def normal(checkpoint: Checkpoint, sites: tuple[Site, ...] | None = None) -> Checkpoint:
    """A file's checkpoint with attentions under their numbers, and with halves joined."""
    if checkpoint.converted:
        return checkpoint
    return join_keys_values(number_sites(checkpoint, sites))


def detect(checkpoint: Checkpoint) -> AdapterSpec:
    """Detect an adapter's structure: from its shapes, or from a converted file's description.

    Raises:
        CheckpointError: None, or one of a kind that is not supported.
    """
    if checkpoint.converted:
        return _described(checkpoint)
    return detect_adapter(canonical_shapes(checkpoint), checkpoint.where)


def _described(checkpoint: Checkpoint) -> AdapterSpec:
    """A converted file's own description, which must agree with its shapes."""
    spec = parse_description(checkpoint.metadata.get(DESCRIPTION), checkpoint.where)
    shapes = {tensor.name: tensor.shape for tensor in tensors(spec, (_ANY_SITE,))}
    detected = detect_adapter(shapes, checkpoint.where)
    if detected.with_kind(spec.kind) != spec:
        raise CheckpointError(
            f"{checkpoint.where}: its description contradicts itself",
            found=f"{spec}, but such tensors are {detected}",
            remedy="convert the original adapter again",
        )
    return spec


def canonical_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes of a file's tensors by their original names."""
    rules = aliases(checkpoint)
    return {rename(name, rules): tensor.shape for name, tensor in checkpoint.items()}


def table(
    spec: AdapterSpec, sites: tuple[Site, ...], spelling: tuple[Rename, ...] = ALIASES
) -> Table:
    """The table of an adapter for a UNet with these sites, for files of a spelling (`aliases`)."""
    return Table(
        title=TITLE,
        tensors=tuple(tensors(spec, sites)),
        renames=RENAMES[spec.projector] + tuple(_site_renames(spec, sites)),
        aliases=spelling,
        drops=DROPS,
        repeats=True,
    )


def tensors(spec: AdapterSpec, sites: tuple[Site, ...]) -> Iterator[Tensor]:
    """Every tensor, as the original repository names it."""
    yield from projector_tensors(spec)
    for site in sites:
        for part in ("to_k_ip", "to_v_ip"):
            path = f"ip_adapter.{site.number}.{part}"
            yield from linear(path, spec.context_width, site.width, bias=False)
        if spec.lora_rank:
            number, _ = site.self_attention
            yield from _lora(number, site.width, site.width, spec.lora_rank)
            yield from _lora(site.number, site.width, spec.context_width, spec.lora_rank)


def _lora(number: int, width: int, context_width: int, rank: int) -> Iterator[Tensor]:
    """FaceID's LoRA on one attention: W + up @ down, at scale 1 (attention_processor_faceid.py).

    Keys and values come from the context, which for a self-attention is as wide as the queries.
    """
    for part in _LORA_PARTS:
        path = f"ip_adapter.{number}.to_{part}_lora"
        inputs = context_width if part in "kv" else width
        yield from linear(f"{path}.down", inputs, rank, bias=False)
        yield from linear(f"{path}.up", rank, width, bias=False)


def _site_renames(spec: AdapterSpec, sites: tuple[Site, ...]) -> Iterator[Rename]:
    """Names of sites by number: many share one shape, so no check would notice a wrong order."""
    for site in sites:
        for part in ("to_k", "to_v"):
            source = f"ip_adapter.{site.number}.{part}_ip.weight"
            yield Rename(source, f"sites.{site.path}.{part}.weight")
        for number, path in (site.self_attention, (site.number, site.path)):
            for part in _LORA_PARTS if spec.lora_rank else ():
                source = f"ip_adapter.{number}.to_{part}_lora.*.weight"
                yield Rename(source, f"lora.{path}.to_{part}.*.weight")
