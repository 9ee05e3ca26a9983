"""Proof that what was written holds what its source held: every value read again and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ipa.errors import CheckpointError
from ipa.model.folder import ModelFolder
from ipa.model.ignoring import Ignore
from ipa.model.sites import Site

from ..containers.safetensors_file import nbytes
from ..lora.names import LoraTargets
from ..lora.pairs import Lora
from ..lora.reading import read_lora
from ..reading.component_file import Config, open_component
from ..reading.components import Component
from ..reading.model import read_model
from ..tables.converted import Converted
from .adapter_file import read_adapter_file
from .file import Progress
from .rows import DType, rows

K = TypeVar("K")


def verify_model(
    source: ModelFolder,
    written: ModelFolder,
    *,
    dtype: DType | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Compare a written model with its source, bit for bit after the change of precision.

    Where the written one is quantised, its source is quantised again.

    Args:
        source: What was converted.
        written: What `convert_model` wrote, in either layout.
        dtype: The precision that was asked for.
        on_progress: Called after every tensor with the bytes compared and the bytes in all.

    Returns:
        Number of tensors compared.

    Raises:
        CheckpointError: One is missing or differs, or the source is quantised itself.
    """
    return _compare(read_model(source), read_model(written), dtype, on_progress)


def verify_component(
    source: Path,
    written: Path,
    config: Config | None = None,
    *,
    ignore: Sequence[str] | None = None,
    component: Component | None = None,
    dtype: DType | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Compare what `convert_component` wrote with its source; config and names as given then."""
    expected = open_component(source, config, ignore, component)
    found = open_component(written)
    return _compare({"": expected.converted}, {"": found.converted}, dtype, on_progress)


def verify_adapter(
    source: Path,
    written: Path,
    sites: tuple[Site, ...] | None = None,
    *,
    ignore: Sequence[str] | None = None,
    dtype: DType | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Compare what `convert_adapter` wrote with its source; sites and names as given then."""
    expected = read_adapter_file(source, sites, ignore)[1]
    found = read_adapter_file(written, sites)[1]
    return _compare({"": expected}, {"": found}, dtype, on_progress)


def verify_lora(
    source: Path,
    written: Path,
    targets: LoraTargets,
    *,
    ignore: Sequence[str] | None = None,
    dtype: DType | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Compare what `convert_lora` wrote with its source: matrices bit for bit, and every scale."""
    expected = read_lora(source, targets, ignore=Ignore.of(ignore))
    found = read_lora(written, targets)
    scales = [{key: pair.scale for key, pair in lora.items()} for lora in (expected, found)]
    if scales[0] != scales[1]:
        raise CheckpointError(
            f"{written} has other layers or scales than its source",
            found=f"{len(scales[1])} layers, made from {len(scales[0])}",
            remedy="convert it again",
        )
    return _compare(_matrices(expected), _matrices(found), dtype, on_progress)


def _matrices(lora: Lora) -> dict[str, Converted]:
    return {
        f"{component}.{path}.{half}": Converted(lora.where, {tensor.name: tensor})
        for (component, path), pair in lora.items()
        for half, tensor in (("down", pair.down), ("up", pair.up))
    }


def _compare(
    expected: Mapping[K, Converted],
    found: Mapping[K, Converted],
    dtype: DType | None,
    on_progress: Progress | None,
) -> int:
    """Compare every tensor of every part."""
    total = sum(nbytes(t.dtype, t.shape) for part in found.values() for t in part.values())
    done = count = 0
    for component, part in expected.items():
        part.require_precise()
        for row in rows(part, dtype, "mlx", found[component].quantization):
            tensor = found[component][row.name]
            if tensor.dtype != row.dtype or not np.array_equal(
                _bits(tensor.array()), _bits(row.array())
            ):
                raise CheckpointError(
                    f"{tensor.stored.where}: {row.name} is not what its source holds",
                    found=f"{tensor.dtype}, made from {part.where}",
                    remedy="the disk may be failing: convert again to another one",
                )
            tensor.stored.release()
            row.release()
            done, count = done + nbytes(tensor.dtype, tensor.shape), count + 1
            if on_progress is not None:
                on_progress(done, total)
    return count


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)
