"""Writing a whole model: ready for MLX, or back in PyTorch's layout, whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ipa.contract.errors import CheckpointError
from ipa.contract.files import STEMS
from ipa.contract.model import ModelFolder

from .checkpoint import CONVERTED
from .components import Component, Spec, read_component
from .converted import Converted, ConvertedTensor
from .dtypes import NAMES, Array
from .manifest import Sources, write_manifest
from .safetensors_file import nbytes, write_safetensors
from .values import cast

DType = Literal["float32", "float16", "bfloat16"]
Layout = Literal["mlx", "diffusers"]
Progress = Callable[[int, int], None]
"""Called with the bytes that are written and the bytes in all."""

_METADATA: Mapping[Layout, Mapping[str, str]] = {"mlx": CONVERTED, "diffusers": {"format": "pt"}}
_CONFIG_FOLDERS = ("tokenizer", "scheduler", "feature_extractor")
_CONFIG_SUFFIXES = {".json", ".txt", ".md"}
_INDEX = ".safetensors.index."  # shard indices: the converted weights are one file


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A tensor as it is written: in MLX's names and axes, or in the original's."""

    tensor: ConvertedTensor
    dtype: str
    layout: Layout

    @property
    def name(self) -> str:
        """Name in the file."""
        return self.tensor.name if self.layout == "mlx" else self.tensor.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the file."""
        return self.tensor.shape if self.layout == "mlx" else self.tensor.tensor.shape

    def array(self) -> Array:
        """Read and convert it. Raises CheckpointError where it does not fit the precision."""
        source = self.tensor
        values = source.array() if self.layout == "mlx" else source.original()
        return cast(values, source.dtype, self.dtype, f"{source.stored.where}: {self.name}")

    def release(self) -> None:
        """Its values are not needed any more."""
        self.tensor.stored.release()


def convert_model(
    source: ModelFolder,
    target: Path,
    *,
    dtype: DType | None = None,
    layout: Layout = "mlx",
    on_progress: Progress | None = None,
) -> Path:
    """Write a model folder whose weights MLX loads without any change, or the way back.

    The folder appears complete or not at all: it is built beside the target and then renamed. One
    tensor is in memory at a time. conversion.json inside says what it was made from.

    Args:
        source: The original, or a converted one in another precision.
        target: The folder to make.
        dtype: Precision of the weights; None keeps every tensor's own.
        layout: "mlx", or "diffusers" for files that diffusers and transformers load: bit for bit
            the original's values where no precision was lost.
        on_progress: Called after every tensor.

    Returns:
        The target.

    Raises:
        CheckpointError: The target exists, the disk is too small, or the source is not in order or
            changes meanwhile.
    """
    if os.path.lexists(target):
        raise CheckpointError(
            f"{target} exists already", remedy="choose another folder, or delete this one"
        )
    # Headers are read again after their files' marks are taken, so that no change falls between.
    sources = Sources.of(read_model(source))
    converted = read_model(source)
    parts = {name: tuple(rows(part, dtype, layout)) for name, part in converted.items()}
    # Hashing takes as long as writing, on the other core.
    with _appearing(target) as folder, ThreadPoolExecutor(1) as pool, sources.unchanged():
        hashes = pool.submit(sources.hashes)
        total = sum(nbytes(row.dtype, row.shape) for part in parts.values() for row in part)
        _check_space(folder, total)
        _copy_configs(source.path, folder, (*parts, *_CONFIG_FOLDERS))
        count = _Counter(total, on_progress)
        for component, part in parts.items():
            path = folder / component / f"{STEMS[component]}.safetensors"
            write_safetensors(path, part, _METADATA[layout], count.add)
        write_manifest(folder, sources, hashes.result(), layout=layout, dtype=dtype)
    return target


def read_model(source: ModelFolder) -> Mapping[Component, Converted]:
    """All components of a model, their headers checked, no value read."""
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


def rows(converted: Converted, dtype: DType | None, layout: Layout) -> Iterator[Row]:
    """A component's tensors as they are written."""
    tag = None if dtype is None else NAMES[dtype]
    for tensor in converted.values():
        apart = replace(tensor, stored=tensor.stored.apart())
        yield Row(tensor=apart, dtype=tag or tensor.dtype, layout=layout)


class _Counter:
    """Bytes written so far, over several files."""

    def __init__(self, total: int, report: Progress | None) -> None:
        self._done, self._total, self._report = 0, total, report

    def add(self, count: int) -> None:
        self._done += count
        if self._report is not None:
            self._report(self._done, self._total)


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder that gets its name when the block ends well, and is gone if it does not."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        _remove_leftovers(target)
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(target)
        with suppress(OSError):  # not every system can; the folder is whole
            _flush_folder(target.parent)
    except OSError as error:
        raise CheckpointError(
            f"{target} could not be written",
            found=str(error),
            remedy="check the free space and the permissions of the folder",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """What runs that were killed have left beside the target; those of living ones stay."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)-[0-9a-f]{{8}}\.partial")
    for path in target.parent.glob(".*.partial") if target.parent.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _flush_folder(folder: Path) -> None:
    """Have the new name on disk, not only in the system's memory."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_space(folder: Path, needed: int) -> None:
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
