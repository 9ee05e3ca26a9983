"""Adapters whose attentions are named by their paths, as the training scripts leave them.

The scripts of tencent-ailab/IP-Adapter (tutorial_train*.py) save a module of three parts: `unet`,
whose attentions hold the adapter's layers as their processors; `image_proj_model`; and
`adapter_modules`, a list of the same processors by their numbers. A pickle has both copies,
safetensors keeps the first. The repository's own recipe makes `ip_adapter.<path>.processor.…` of
them. Data-parallel and compiled modules put a prefix before all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ipa.errors import CheckpointError
from ipa.model.sites import SITES, Site

from ..containers.checkpoint import Checkpoint
from ..containers.stored import Stored

_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_PARTS = ("unet.", "image_proj_model.", "adapter_modules.", "image_proj.", "ip_adapter.")
_NAMED = re.compile(r"(?:unet|ip_adapter)\.(?P<path>[^.].*\.attn[12])\.processor\.(?P<rest>.+)")
_LIST = re.compile(r"(to_[kv]_ip)\.0\.weight")  # diffusers' processors hold several adapters


def number_sites(checkpoint: Checkpoint, sites: tuple[Site, ...] | None = None) -> Checkpoint:
    """Tensors with attentions under their numbers, `ip_adapter.<number>.…`, and no prefix.

    What lies at a path that the sites do not have is `ip_adapter.<path>.processor.…`: left over.

    Args:
        checkpoint: An adapter's, in any spelling.
        sites: Those of the UNet that it is for; None takes those of the base that has such paths.

    Raises:
        CheckpointError: One name stands twice, with and without a prefix.
    """
    tensors: dict[str, Stored] = {}
    for name, stored in checkpoint.items():
        bare = _bare(name)
        if bare in tensors:
            raise CheckpointError(
                f"{checkpoint.where} holds {bare} twice",
                found=f"{name} and {tensors[bare].name}",
                remedy="save the training's state once, without the wrapper's prefix",
            )
        tensors[bare] = stored
    numbers = _numbers(sites or _base(tensors))
    numbered: dict[str, Stored] = {}
    for name, stored in tensors.items():
        new = _numbered(name, numbers)
        # A second copy keeps a name of its own, to be compared with the first.
        numbered[f"adapter_modules.{new.partition('.')[2]}" if new in numbered else new] = stored
    return Checkpoint(checkpoint.where, numbered, checkpoint.converted, checkpoint.metadata)


def _bare(name: str) -> str:
    """A name without the prefixes that wrap the whole module."""
    bare = name
    while bare.startswith(_WRAPPERS):
        bare = bare.partition(".")[2]
    return bare if bare.startswith(_PARTS) else name


def _base(names: Iterable[str]) -> tuple[Site, ...]:
    paths = {match["path"] for match in map(_NAMED.fullmatch, names) if match}
    crossing = {path for path in paths if path.endswith("attn2")}
    return next((s for s in SITES.values() if crossing <= {site.path for site in s}), ())


def _numbers(sites: tuple[Site, ...]) -> Mapping[str, int]:
    cross = {site.path: site.number for site in sites}
    return cross | {path: number for number, path in (site.self_attention for site in sites)}


def _numbered(name: str, numbers: Mapping[str, int]) -> str:
    match = _NAMED.fullmatch(name)
    if match is None:
        return name
    path, rest = match["path"], _LIST.sub(r"\1.weight", match["rest"])
    return f"ip_adapter.{numbers.get(path, f'{path}.processor')}.{rest}"
