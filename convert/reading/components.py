"""Components read from their files, each by its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.controlnet import ControlNetSpec
from ipa.model.files import STEMS
from ipa.model.ignoring import NOTHING, Ignore
from ipa.model.sites import Site
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.model.unet import UNetSpec
from ipa.model.vae import STEM, TinyVaeFiles, VaeSpec

from ..containers.checkpoint import Checkpoint, open_file, open_folder
from ..tables import (
    clip_text,
    clip_vision,
    controlnet,
    ip_adapter,
    t2i_adapter,
    tiny_vae,
    unet,
    vae,
)
from ..tables.adapter_spellings import aliases
from ..tables.converted import Converted
from ..tables.matching import convert
from ..tables.table import Table

Component: TypeAlias = Literal[
    "unet", "vae", "text_encoder", "text_encoder_2", "image_encoder", "controlnet", "t2i_adapter"
]


Spec: TypeAlias = (
    UNetSpec | VaeSpec | ClipTextSpec | ClipVisionSpec | ControlNetSpec | T2IAdapterSpec
)


TABLES: Mapping[Component, Callable[[Any], Table]] = {
    "unet": unet.table,
    "vae": vae.table,
    "text_encoder": clip_text.table,
    "text_encoder_2": clip_text.table,
    "image_encoder": clip_vision.table,
    "controlnet": controlnet.table,
    "t2i_adapter": t2i_adapter.table,
}
"""Each component's table, from its spec."""


def read_component(
    component: Component,
    folder: Path,
    spec: Spec,
    *,
    variant: str | None = None,
    ignore: Ignore = NOTHING,
) -> Converted:
    """A component's tensors under their MLX names, from an original or a converted folder.

    Only headers are read here; values are read one by one from what this returns.

    Args:
        component: Which part of the model.
        folder: Its folder, with weights called as `ipa.model.files.STEMS` says; or its file.
        spec: Its structure, from its config.json.
        variant: "fp16" and the like, in the file names.
        ignore: What else may lie in its files.

    Raises:
        CheckpointError: The weights are damaged, or are not exactly those of that structure.
    """
    if folder.is_file():
        checkpoint = open_file(folder)
    else:
        checkpoint = open_folder(folder, STEMS[component], variant)
    return convert(checkpoint, TABLES[component](spec), ignore)


def read_adapter(
    path: Path, sites: tuple[Site, ...], context_width: int, *, ignore: Ignore = NOTHING
) -> tuple[AdapterSpec, Converted]:
    """An IP-Adapter's structure and tensors.

    Args:
        path: A safetensors file, or one of torch.save, or a converted one.
        sites: The cross-attentions of the UNet that it is for.
        context_width: Width of that UNet's context.
        ignore: What else may lie in it.

    Raises:
        CheckpointError: It is damaged, no IP-Adapter, of an unsupported kind, or for another base.
    """
    checkpoint = ip_adapter.open_adapter(path, sites)
    spec = ip_adapter.detect(checkpoint)
    spec.check_context(context_width, checkpoint.where)
    return spec, plan_adapter(checkpoint, spec, sites, ignore)


def plan_adapter(
    checkpoint: Checkpoint,
    spec: AdapterSpec,
    sites: tuple[Site, ...],
    ignore: Ignore = NOTHING,
) -> Converted:
    """The tensors of an adapter's checkpoint, for a UNet with these sites.

    Raises:
        CheckpointError: They are not exactly those of that structure.
    """
    if not checkpoint.converted:
        spec.check_unet(ip_adapter.canonical_shapes(checkpoint), sites, checkpoint.where)
    table = ip_adapter.table(spec, sites, aliases(checkpoint))
    return convert(checkpoint, table, ignore)


def read_tiny_vae(files: TinyVaeFiles) -> Converted:
    """A tiny decoder's tensors under their MLX names, no value read.

    Raises:
        CheckpointError: The weights are damaged, or are not exactly those of its structure.
    """
    path = files.path
    checkpoint = open_folder(path, STEM) if path.is_dir() else open_file(path)
    return convert(checkpoint, tiny_vae.table(files.spec))
