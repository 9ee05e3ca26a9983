"""How far two arrays are apart."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def relative(found: Array, reference: Array) -> float:
    """Relative L2 distance, in float64."""
    a, b = np.asarray(found, np.float64), np.asarray(reference, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
