"""Number formats of checkpoints, by their safetensors tag, as numpy sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

NUMPY: Mapping[str, np.dtype[Any]] = {
    tag: np.dtype(kind)
    for tag, kind in {
        "BOOL": "?",
        "U8": "u1",
        "I8": "i1",
        "F8_E4M3": "u1",  # no numpy type: the raw bytes
        "F8_E5M2": "u1",
        "F8_E8M0": "u1",
        "U16": "<u2",
        "I16": "<i2",
        "F16": "<f2",
        "BF16": "<u2",  # no numpy type: the raw bits; they are the upper half of a float32
        "U32": "<u4",
        "I32": "<i4",
        "F32": "<f4",
        "U64": "<u8",
        "I64": "<i8",
        "F64": "<f8",
        "C64": "<c8",
    }.items()
}
"""The numpy type of each tag. Keep the tag beside the array: BF16 and U16 look the same."""

WEIGHTS = ("F32", "F16", "BF16")
"""The formats that weights of supported networks may have."""

NAMES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Safetensors tags by the names that people use: float32, float16, bfloat16."""

MAX_ELEMENTS = 2**59
"""The product of a shape's sides but those of 0: numpy counts bytes in 63 bits, even of nothing."""
