"""A checkpoint: the tensors of one file, or of all shards of one component, by name.

Containers (safetensors, files of torch.save) join here: whatever gives tensors with a name, a type
tag, a shape and a lazy `array` is a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ipa.contract.errors import CheckpointError
from ipa.contract.files import container, find_weights, read_json

from .dtypes import Array
from .safetensors_file import SafetensorsFile, open_safetensors
from .torch_file import open_torch

CONVERTED: Mapping[str, str] = {"format": "mlx", "ipa_layout": "1"}
"""Metadata of files in our MLX names and layout."""

_FOREIGN_FORMATS = {"mlx", "flax", "tf"}  # their convolutions lie in another order


class Stored(Protocol):
    """A tensor of a checkpoint; nothing is read before `array`."""

    @property
    def name(self) -> str:
        """As the file spells it."""

    @property
    def dtype(self) -> str:
        """Its safetensors tag."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""

    @property
    def where(self) -> str:
        """The file."""

    def array(self) -> Array:
        """Its values; BF16 as uint16."""

    def apart(self) -> Stored:
        """The same, read as a stream and not through a map."""

    def release(self) -> None:
        """It is not needed for now: the memory behind it may go."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint(Mapping[str, Stored]):
    """Tensors by name.

    Attributes:
        where: The file or folder, for messages.
        tensors: The tensors.
        converted: Whether names and layouts are already those of our MLX modules.
    """

    where: str
    tensors: Mapping[str, Stored]
    converted: bool

    def __getitem__(self, name: str) -> Stored:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def open_file(path: Path) -> Checkpoint:
    """The checkpoint in one file, whatever it is called.

    Raises:
        CheckpointError: See `open_safetensors` and `open_torch`.
    """
    kind = container(path)
    if kind != "safetensors":
        return Checkpoint(str(path), open_torch(path, kind), converted=False)
    file = open_safetensors(path)
    return Checkpoint(str(path), file.tensors, _is_converted(file))


def open_folder(folder: Path, stem: str, variant: str | None = None) -> Checkpoint:
    """The checkpoint of a component's folder: one file, or shards and their index.

    Raises:
        CheckpointError: Files are missing or damaged, or shards and index contradict each other.
    """
    weights = find_weights(folder, stem, variant, pickles=True)
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
    kinds = {file.converted for file in files.values()}
    if len(kinds) > 1:
        raise CheckpointError(
            f"{folder}: some shards are converted for MLX and some are not",
            remedy="files of two downloads may be mixed: download the folder again",
        )
    return Checkpoint(str(folder), tensors, kinds.pop())


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
