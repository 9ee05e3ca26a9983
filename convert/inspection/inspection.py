"""Saying what a file or folder holds, from headers alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal

from ipa.errors import CheckpointError

from ..containers.checkpoint import Checkpoint, open_folder
from ..containers.safetensors_file import nbytes
from ..reading.single_file import tensors_of
from ..tables.families import CONTROLLED, SINGLE_FILE, SUPPORTED, UNKNOWN, family
from .adapter_facts import TITLE as INVERSION
from .adapter_facts import is_inversion, open_any
from .facts import facts
from .oddities import odd_types, odd_values

_INDEX = re.compile(r"(.+)\.(safetensors|bin)\.index(?:\.(.+))?\.json")
_SHARD = re.compile(r".+-[0-9]+-of-[0-9]+.*\.(safetensors|bin)")
_PICKLES = {".bin", ".ckpt", ".pt", ".pth"}
_MODEL_PARTS = {"unet", "vae", "text_encoder"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One checkpoint: a file, or the shards of one component.

    Attributes:
        name: Its path inside what was inspected.
        family: What it is: "Stable Diffusion UNet", "IP-Adapter", "LoRA", …
        variant: Which kind of it, with the public names that it may have.
        base: The base model that it belongs to: "SD1.5", "SD2", "SDXL", …
        encoder: The image encoder that an adapter needs.
        tensors: Number of tensors.
        parameters: Number of weights; integer buffers are not counted.
        bytes: Size of the tensors.
        dtypes: Number of tensors of each type.
        converted: Whether it is in MLX's names and layout already.
        remarks: Whatever else is worth knowing.
    """

    name: str
    family: str
    variant: str
    base: str
    encoder: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    converted: bool
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """A path's description: its parts, and sums over them. JSON-able with `dataclasses.asdict`."""

    path: str
    kind: Literal["file", "component", "model", "folder"]
    family: str
    variant: str
    base: str
    encoder: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    converted: bool
    parts: tuple[Part, ...]
    remarks: tuple[str, ...]


def inspect(path: Path | str, *, values: bool = False) -> Inspection:
    """Recognise a file of weights, a component's folder, a whole model, or a folder of files.

    In a folder, a pickle that cannot be read is a remark: training leaves many without weights.

    Args:
        path: The file or folder.
        values: Read every value too, and look for NaN, infinity and empty matrices.

    Raises:
        CheckpointError: There is no checkpoint, or one that is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        return _file(path, values=values)
    found = tuple(_folder_parts(path, values=values))
    parts = tuple(part for part in found if isinstance(part, Part))
    remarks = tuple(remark for remark in found if isinstance(remark, str))
    if not parts:
        present = ", ".join(sorted(p.name for p in path.iterdir())[:8])
        raise CheckpointError(
            f"{path} holds no checkpoint",
            found=present or "an empty folder",
            remedy="give a file of weights, or a model's or a component's folder",
        )
    if (path / "model_index.json").is_file():
        return _sum(path, "model", parts, remarks)
    is_component = (path / "config.json").is_file() and len({p.family for p in parts}) == 1
    return _sum(path, "component" if is_component else "folder", parts, remarks)


def _file(path: Path, *, values: bool) -> Inspection:
    """Inspect a file; the parts of a whole model are described one by one."""
    checkpoint = open_any(path)
    whole = _part(path.name, checkpoint, values=values)
    found = _sum(path, "file", (whole,), ())
    if whole.family not in (SINGLE_FILE, CONTROLLED):
        return found
    parts = (_part(n, part, values=False) for n, part in tensors_of(checkpoint).items())
    return replace(found, parts=tuple(parts))


def _folder_parts(root: Path, *, values: bool) -> Iterator[Part | str]:
    """The checkpoints in a folder and its subfolders, one level deep, and remarks on the rest."""
    for folder in (root, *sorted(p for p in root.iterdir() if p.is_dir())):
        names = sorted(p.name for p in folder.iterdir() if p.is_file())
        shown = "" if folder == root else f"{folder.name}/"
        indices = [m for m in map(_INDEX.fullmatch, names) if m]
        sharded = {match[2] for match in indices}
        for match in indices:
            stem, suffix, variant = match.groups()
            if suffix == "safetensors" or "safetensors" not in sharded:
                yield _part(f"{shown}{stem}", open_folder(folder, stem, variant), values=values)
        for name in names:
            shard = _SHARD.fullmatch(name)
            if shard and shard[1] in sharded:
                continue
            if name.endswith(".safetensors"):
                yield _part(f"{shown}{name}", open_any(folder / name), values=values)
            elif Path(name).suffix in _PICKLES:
                yield _pickle(f"{shown}{name}", folder / name, values=values)


def _pickle(name: str, path: Path, *, values: bool) -> Part | str:
    """A folder's pickle, unless the same weights lie beside it as safetensors."""
    stem = re.sub(r"^pytorch_model(?=\.|$)", "model", path.stem)
    for preferred in (f"{stem}.safetensors", f"{stem}.safetensors.index.json"):
        if (path.parent / preferred).is_file():
            return f"{name}: not read, {preferred} lies beside it"
    try:
        return _part(name, open_any(path), values=values)
    except CheckpointError as error:
        return f"{name}: not read ({error.found})"


def _part(name: str, checkpoint: Checkpoint, *, values: bool) -> Part:
    kind = family(checkpoint)
    if kind == UNKNOWN and is_inversion(checkpoint):
        kind = INVERSION
    described = facts(kind, checkpoint)
    remarks = list(described.remarks)
    if kind == UNKNOWN:
        remarks.append(f"tensors such as {', '.join(sorted(checkpoint)[:3])}")
    elif kind not in (*SUPPORTED, INVERSION):
        remarks.append("not supported by this version")
    if checkpoint.quantization is not None:
        remarks.append(f"matrices of transformers in {checkpoint.quantization.bits} bits")
    remarks += odd_types(checkpoint)
    if values:
        remarks += odd_values(checkpoint)
    return Part(
        name=name,
        family=kind,
        variant=described.variant,
        base=described.base,
        encoder=described.encoder,
        tensors=len(checkpoint),
        parameters=sum(prod(shape) for shape in _weights(checkpoint)),
        bytes=sum(nbytes(t.dtype, t.shape) for t in checkpoint.values()),
        dtypes=dict(Counter(t.dtype for t in checkpoint.values())),
        converted=checkpoint.converted,
        remarks=tuple(remarks),
    )


def _weights(checkpoint: Checkpoint) -> Iterator[tuple[int, ...]]:
    """The shapes that count as weights: no integers, no scales and offsets of quantisation."""
    for name, tensor in checkpoint.items():
        if checkpoint.quantization is not None and name.endswith((".scales", ".biases")):
            continue
        if tensor.dtype.startswith(("F", "BF", "C")) or checkpoint.quantization is not None:
            yield checkpoint.whole_shape(name)


def _sum(
    path: Path,
    kind: Literal["file", "component", "model", "folder"],
    parts: tuple[Part, ...],
    remarks: tuple[str, ...],
) -> Inspection:
    dtypes: Counter[str] = Counter()
    for part in parts:
        dtypes.update(part.dtypes)
    alone = parts[0] if len(parts) == 1 else None
    return Inspection(
        path=str(path),
        kind=kind,
        family=_family(parts),
        variant=alone.variant if alone else "",
        base=_base(parts),
        encoder=alone.encoder if alone else "",
        tensors=sum(p.tensors for p in parts),
        parameters=sum(p.parameters for p in parts),
        bytes=sum(p.bytes for p in parts),
        dtypes=dict(dtypes),
        converted=all(p.converted for p in parts),
        parts=() if kind == "file" else parts,
        remarks=(*(alone.remarks if alone else ()), *remarks),
    )


def _family(parts: tuple[Part, ...]) -> str:
    kinds = {part.family for part in parts}
    if len(kinds) == 1:
        return kinds.pop()
    folders = {part.name.split("/")[0] for part in parts if "/" in part.name}
    return "Stable Diffusion model" if folders >= _MODEL_PARTS else "several checkpoints"


def _base(parts: tuple[Part, ...]) -> str:
    """The base on which all parts agree that know it."""
    bases = {part.base for part in parts if part.base}
    return bases.pop() if len(bases) == 1 else ", ".join(sorted(bases))
