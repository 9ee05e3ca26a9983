"""What is odd about a checkpoint, whatever it holds: in its types, and in its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from ..containers.checkpoint import Checkpoint
from ..containers.decoding import BECOMES, decoded
from ..containers.dtypes import WEIGHTS
from ..containers.values import is_finite

_SHOWN = 3


def odd_types(checkpoint: Checkpoint) -> Iterator[str]:
    """Remarks on number formats."""
    counts = Counter(stored.dtype for stored in checkpoint.values())
    floats = [tag for tag in (*WEIGHTS, *BECOMES) if tag in counts]
    if len(floats) > 1 and checkpoint.quantization is None:
        parts = ", ".join(f"{counts[tag]} of {tag}" for tag in floats)
        yield f"mixed precisions: {parts}; each tensor keeps its own"
    for tag in floats:
        if tag in BECOMES:
            exactly = ", exactly" if tag.startswith("F8") else ", rounded"
            yield f"{tag} is not computed with: it becomes {BECOMES[tag]}{exactly}"


def odd_values(checkpoint: Checkpoint) -> Iterator[str]:
    """Remarks on values, all of which are read: NaN and infinity, and matrices of zeros."""
    broken, empty = [], []
    for name, stored in checkpoint.items():
        tensor = decoded(stored)
        if tensor.dtype in WEIGHTS:
            values = tensor.array()
            if not is_finite(values, tensor.dtype):
                broken.append(name)
            elif len(tensor.shape) > 1 and values.size and not np.any(values):
                empty.append(name)
        tensor.release()
    if broken:
        yield f"NaN or infinity in {_listed(broken)}: it cannot be used"
    if empty:
        yield f"nothing but zeros in {_listed(empty)}"
    if not broken and not empty:
        yield "every value was read: all are finite, and no matrix is empty"


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} tensors ({', '.join(sorted(names)[:_SHOWN])}{rest})"
