"""A checkpoint: the tensors of one file, or of all shards of one component, by name.

Containers (safetensors, files of torch.save) join here: whatever gives tensors with a name, a type
tag, a shape and a lazy `array` is a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ipa.errors import CheckpointError
from ipa.model.files import container, find_weights, read_json
from ipa.model.quantization import Quantization

from .quantization import PACKED
from .safetensors_file import SafetensorsFile, open_safetensors
from .stored import Stored

CONVERTED: Mapping[str, str] = {"format": "mlx", "ipa_layout": "1"}
"""Metadata of files in our MLX names and layout."""

QUANTIZED = "ipa_quantization"
"""Metadata key of such files with quantised matrices: bits and group size, "8,64"."""

_FOREIGN_FORMATS = {"mlx", "flax", "tf"}  # their convolutions lie in another order


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint(Mapping[str, Stored]):
    """A checkpoint's tensors by name, with the metadata of its file.

    Attributes:
        where: The file or folder, for messages.
        tensors: The tensors.
        converted: Whether names and layouts are already those of our MLX modules.
        quantization: How its matrices are quantised; None where they are not.
        metadata: What a safetensors file says of itself; empty for other files, and for shards.
    """

    where: str
    tensors: Mapping[str, Stored]
    converted: bool
    metadata: Mapping[str, str] = field(default_factory=dict)
    quantization: Quantization | None = None

    def __getitem__(self, name: str) -> Stored:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def whole_shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape before quantisation packed its weights."""
        tensor = self.tensors[name]
        if self.quantization is None or tensor.dtype != PACKED:
            return tensor.shape
        return self.quantization.unpacked(tensor.shape)


def open_file(path: Path) -> Checkpoint:
    """The checkpoint in one file, whatever it is called.

    Raises:
        CheckpointError: See `open_safetensors` and `open_torch`.
    """
    kind = container(path)
    if kind != "safetensors":
        from .torch_save.torch_file import open_torch

        return Checkpoint(str(path), open_torch(path, kind), converted=False)
    file = open_safetensors(path)
    return Checkpoint(
        where=str(path),
        tensors=file.tensors,
        converted=_is_converted(file),
        metadata=file.metadata,
        quantization=_quantization(file),
    )


def open_folder(folder: Path, stem: str, variant: str | None = None) -> Checkpoint:
    """The checkpoint of a component's folder: one file, or shards and their index.

    Raises:
        CheckpointError: Files are missing or damaged, or shards and index contradict each other.
    """
    weights = find_weights(folder, stem, variant)
    files = {path.name: open_file(path) for path in weights.files}
    if weights.index is None:
        return files.popitem()[1]
    tensors: dict[str, Stored] = {}
    for shard, file in files.items():
        for name, tensor in file.items():
            if name in tensors:
                raise CheckpointError(
                    f"{folder}: {name} is in two shards",
                    found=f"{Path(tensors[name].where).name} and {shard}",
                    remedy="files of two downloads may be mixed: download the folder again",
                )
            tensors[name] = tensor
    _check_index(weights.index, files)
    kinds = {(file.converted, file.quantization) for file in files.values()}
    if len(kinds) > 1:
        raise CheckpointError(
            f"{folder}: its shards are not all converted for MLX alike",
            remedy="files of two downloads may be mixed: download the folder again",
        )
    converted, quantization = kinds.pop()
    return Checkpoint(str(folder), tensors, converted, quantization=quantization)


def _check_index(index: Path, files: Mapping[str, Checkpoint]) -> None:
    weight_map: dict[str, str] = read_json(index)["weight_map"]
    absent = [name for name, shard in weight_map.items() if name not in files[shard]]
    if absent:
        raise CheckpointError(
            f"{index}: {len(absent)} tensors are not in the shard that it names",
            found=f"no {absent[0]} in {weight_map[absent[0]]}",
            remedy="files of two downloads may be mixed: download the folder again",
        )


def _is_converted(file: SafetensorsFile) -> bool:
    kind, layout = file.metadata.get("format"), file.metadata.get("ipa_layout")
    if {"format": kind, "ipa_layout": layout} == CONVERTED:
        return True
    if layout is not None:
        raise CheckpointError(
            f"{file.path} is in a layout that this version does not know",
            found=f"format {kind!r:.60}, ipa_layout {layout!r:.60}",
            remedy="update ipa-mlx, or convert the original model again",
        )
    if kind in _FOREIGN_FORMATS:
        raise CheckpointError(
            f"{file.path} was written for another framework",
            found=f"format {kind!r}",
            remedy="use the original PyTorch safetensors file",
        )
    return False


def _quantization(file: SafetensorsFile) -> Quantization | None:
    tag = file.metadata.get(QUANTIZED)
    how = None if tag is None else Quantization.parse(tag)
    if tag is not None and (how is None or "ipa_layout" not in file.metadata):
        raise CheckpointError(
            f"{file.path} is quantised in a way that this version does not know",
            found=f"{QUANTIZED} {tag[:40]!r}",
            remedy="update ipa-mlx, or convert the original model again",
        )
    return how
