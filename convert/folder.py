"""Writing a whole model: ready for MLX, or back in PyTorch's layout, whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ipa.contract.errors import CheckpointError
from ipa.contract.files import STEMS
from ipa.contract.model import ModelFolder

from .checkpoint import CONVERTED
from .configs import copy_configs
from .converted import Converted, ConvertedTensor
from .dtypes import NAMES, Array
from .manifest import Sources, write_manifest
from .model import read_model
from .safetensors_file import nbytes, write_safetensors
from .values import cast

DType = Literal["float32", "float16", "bfloat16"]
Layout = Literal["mlx", "diffusers"]
Progress = Callable[[int, int], None]
"""Called with the bytes that are written and the bytes in all."""

_METADATA: Mapping[Layout, Mapping[str, str]] = {"mlx": CONVERTED, "diffusers": {"format": "pt"}}


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
    if target.exists() or target.is_symlink():
        raise CheckpointError(
            f"{target} exists already", remedy="choose another folder, or delete this one"
        )
    converted = read_model(source)
    parts = {name: tuple(rows(part, dtype, layout)) for name, part in converted.items()}
    sources = Sources.of(converted)
    # Hashing takes as long as writing, on the other core.
    with _appearing(target) as folder, ThreadPoolExecutor(1) as pool:
        hashes = pool.submit(sources.hashes)
        total = sum(nbytes(row.dtype, row.shape) for part in parts.values() for row in part)
        _check_space(folder, total)
        copy_configs(source, folder, parts)
        count = Counter(total, on_progress)
        for component, part in parts.items():
            path = folder / component / f"{STEMS[component]}.safetensors"
            write_safetensors(path, part, _METADATA[layout], count.add)
        sources.check()
        write_manifest(folder, sources, hashes.result(), layout=layout, dtype=dtype)
    return target


def rows(converted: Converted, dtype: DType | None, layout: Layout) -> Iterator[Row]:
    """A component's tensors as they are written."""
    tag = None if dtype is None else NAMES[dtype]
    for tensor in converted.values():
        yield Row(tensor=tensor, dtype=tag or tensor.dtype, layout=layout)


class Counter:
    """Bytes written so far, over several files."""

    def __init__(self, total: int, report: Progress | None) -> None:
        self._done, self._total, self._report = 0, total, report

    def add(self, count: int) -> None:
        """So many more are written."""
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
