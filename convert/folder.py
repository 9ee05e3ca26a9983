"""Writing a converted model folder: the original's layout and configs, weights ready for MLX."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ipa.contract.errors import CheckpointError
from ipa.contract.files import STEMS
from ipa.contract.model import ModelFolder

from .checkpoint import CONVERTED
from .components import Component, Spec, read_component
from .converted import Converted, ConvertedTensor
from .dtypes import NAMES, Array
from .safetensors_file import nbytes, write_safetensors
from .values import cast

DType = Literal["float32", "float16", "bfloat16"]

_CONFIG_FOLDERS = ("tokenizer", "scheduler", "feature_extractor")
_CONFIG_SUFFIXES = {".json", ".txt", ".md"}
_INDEX = ".safetensors.index."  # shard indices: the converted weights are one file


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cast:
    """A converted tensor in the precision in which it is written."""

    tensor: ConvertedTensor
    dtype: str

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def array(self) -> Array:
        source = self.tensor
        return cast(source.array(), source.dtype, self.dtype, f"{source.stored.where}: {self.name}")


def convert_model(source: ModelFolder, target: Path, *, dtype: DType | None = None) -> Path:
    """Write a model folder whose weights MLX loads without any change.

    The folder appears complete or not at all: it is built beside the target and then renamed.

    Args:
        source: The original, or a converted one in another precision.
        target: The folder to make.
        dtype: Precision of the weights; None keeps every tensor's own.

    Returns:
        The target.

    Raises:
        CheckpointError: The target exists, the disk is too small, or the source is not in order.
    """
    if target.exists() or target.is_symlink():
        raise CheckpointError(
            f"{target} exists already", remedy="choose another folder, or delete this one"
        )
    tag = None if dtype is None else NAMES[dtype]
    parts = {
        component: tuple(_cast(converted, tag)) for component, converted in _read(source).items()
    }
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        temporary.mkdir(parents=True)
        _check_space(temporary, (row for rows in parts.values() for row in rows))
        _copy_configs(source.path, temporary, (*parts, *_CONFIG_FOLDERS))
        for component, rows in parts.items():
            write_safetensors(
                temporary / component / f"{STEMS[component]}.safetensors", rows, CONVERTED
            )
        temporary.rename(target)
    except OSError as error:
        raise CheckpointError(
            f"{target} could not be written",
            found=str(error),
            remedy="check the free space and the permissions of the folder",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _read(source: ModelFolder) -> Mapping[Component, Converted]:
    """All components, checked before anything is written."""
    specs: dict[Component, Spec] = {
        "unet": source.unet,
        "vae": source.vae,
        "text_encoder": source.text_encoder,
    }
    if source.image_encoder is not None:
        specs["image_encoder"] = source.image_encoder
    return {
        component: read_component(component, source.path / component, spec, variant=source.variant)
        for component, spec in specs.items()
    }


def _cast(converted: Converted, tag: str | None) -> Iterator[_Cast]:
    for tensor in converted.values():
        yield _Cast(tensor=tensor, dtype=tag or tensor.dtype)


def _check_space(folder: Path, rows: Iterable[_Cast]) -> None:
    needed = sum(nbytes(row.dtype, row.shape) for row in rows)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder.parent}: the disk is too small for the converted model",
            found=f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed",
            remedy="choose another folder, or a half-precision dtype",
        )


def _copy_configs(source: Path, target: Path, folders: Iterable[str]) -> None:
    """Small text files only, from a closed list of folders; links are followed (hub caches)."""
    for name in (".", *folders):
        if not (source / name).is_dir():
            continue
        (target / name).mkdir(exist_ok=True)
        for file in sorted((source / name).iterdir()):
            wanted = file.suffix in _CONFIG_SUFFIXES or file.stem == "LICENSE"
            if wanted and file.is_file() and _INDEX not in file.name:
                shutil.copyfile(file, target / name / file.name)
