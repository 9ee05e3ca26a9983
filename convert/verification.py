"""Proof that a written model holds what its source held: every value read again and compared."""

from __future__ import annotations

import numpy as np

from ipa.contract.errors import CheckpointError
from ipa.contract.model import ModelFolder

from .model import read_model
from .progress import Progress
from .row import DType, rows
from .safetensors_file import nbytes


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
    expected, found = read_model(source), read_model(written)
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
