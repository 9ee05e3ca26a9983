"""Types of arrays, and of pairs of sizes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]


Bytes = npt.NDArray[np.uint8]


Doubles = npt.NDArray[np.float64]


Pair: TypeAlias = tuple[int, int]
"""Two sizes: height, width. Of a crop: top, left."""


Flags: TypeAlias = npt.NDArray[np.bool_]


Array: TypeAlias = Any
"""A tensor of a backend's own type."""
