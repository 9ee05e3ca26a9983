"""Writing one adapter: a file that MLX loads as it is, or back in the original's names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ipa.errors import CheckpointError
from ipa.model.adapter import AdapterSpec
from ipa.model.adapter_kinds import adapter_kinds
from ipa.model.ignoring import Ignore
from ipa.model.left_out import LeftOut
from ipa.model.sites import SITES, Site

from ..containers.atomic import require_new
from ..containers.checkpoint import CONVERTED, Checkpoint
from ..reading.adapter_sites import adapter_sites, find_sites
from ..reading.components import plan_adapter
from ..tables import ip_adapter
from ..tables.adapter_description import DESCRIPTION, describe
from ..tables.converted import Converted
from .file import Progress, write_file
from .manifest import Sources
from .rows import DType, Layout, rows

LEFT_OUT = "ipa_left_out"
"""Metadata key: the tensors that an adapter's source holds beside it, counted by name."""

AdapterLayout = Literal["mlx", "original"]

_LAYOUTS: Mapping[AdapterLayout, Layout] = {"mlx": "mlx", "original": "diffusers"}


def convert_adapter(
    path: Path,
    target: Path,
    *,
    dtype: DType | None = None,
    layout: AdapterLayout = "mlx",
    sites: tuple[Site, ...] | None = None,
    kind: str | None = None,
    ignore: Sequence[str] | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Write an adapter as one safetensors file: for MLX, with its description, or the way back.

    The file appears complete or not at all. One tensor is in memory at a time.

    Args:
        path: An original file (safetensors, or of torch.save), or a converted one.
        target: The file to make.
        dtype: Precision of the weights; None keeps every tensor's own.
        layout: "mlx", or "original" for the original repository's names: bit for bit the source's
            values where no precision was lost.
        sites: Cross-attentions of the UNet that it is for. By default those of SD1.5 or SDXL,
            whichever has exactly the file's numbers and widths.
        kind: Which of the public adapters of its structure it is (`ipa.model.adapter_kinds`).
            Needed for "mlx" where the computation depends on it and shapes do not tell.
        ignore: Names of tensors that no adapter has and that may be left out.
        on_progress: Called after every tensor with the bytes that are written and those in all.

    Returns:
        The target.

    Raises:
        CheckpointError: The target exists or cannot be written; the file is damaged, of an
            unsupported kind, or for an unknown base.
        RequestError: `kind` is needed, or is no name of this structure.
    """
    require_new(target)
    spec, _ = read_adapter_file(path, sites, ignore)
    sources, parts = Sources.marked(lambda: {"": read_adapter_file(path, sites, ignore)[1]})
    converted = parts[""]
    if layout == "mlx" or kind is not None:
        given = kind or spec.kind or None
        spec = spec.with_kind(adapter_kinds(spec).choose(given, str(path)))
    tensors = tuple(rows(converted, dtype, _LAYOUTS[layout]))
    metadata = {**_metadata(spec, layout), **_record(path, sources)}
    write_file(target, tensors, sources, metadata, on_progress)
    return target


def read_adapter_file(
    path: Path, sites: tuple[Site, ...] | None = None, ignore: Sequence[str] | None = None
) -> tuple[AdapterSpec, Converted]:
    """Read an adapter's structure and tensors, checked by header."""
    checkpoint = ip_adapter.open_adapter(path, sites)
    spec, asked = ip_adapter.detect(checkpoint), Ignore.of(ignore)
    converted = plan_adapter(checkpoint, spec, sites or _known_sites(checkpoint), asked)
    asked.check_all(checkpoint.where, converted.contents())
    return spec, converted


def _known_sites(checkpoint: Checkpoint) -> tuple[Site, ...]:
    sites = find_sites(checkpoint)
    if sites is None:
        found = adapter_sites(checkpoint)
        raise CheckpointError(
            f"{checkpoint.where} was made for an unknown base model",
            found=f"{len(found)} cross-attention sites: {', '.join(list(found)[:4])}, …",
            remedy="the numbers and widths must be exactly those of "
            + " or ".join(f"{base} ({len(base_sites)} sites)" for base, base_sites in SITES.items())
            + "; for another base give its sites",
        )
    return sites


def _record(path: Path, sources: Sources) -> Mapping[str, str]:
    """The tensors that were left out, for the file's metadata: it has no other place for it."""
    left_out = LeftOut.of(path.name, sources.dropped)
    return {LEFT_OUT: json.dumps(left_out.describe())} if left_out.names else {}


def _metadata(spec: AdapterSpec, layout: AdapterLayout) -> Mapping[str, str]:
    return {**CONVERTED, DESCRIPTION: describe(spec)} if layout == "mlx" else {"format": "pt"}
