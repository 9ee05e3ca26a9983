"""Number formats that no network here computes with, as those that hold their values.

8-bit floats (FP8: E4M3 without infinities as in ONNX and NVIDIA's formats, and E5M2) fit float16
exactly. float64, which some old checkpoints keep, is rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ipa.errors import CheckpointError

from .dtypes import Array
from .stored import Stored, Wrapper

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def _small_floats(exponent_bits: int, mantissa_bits: int, bias: int) -> npt.NDArray[np.float16]:
    """The value of each of the 256 codes of an 8-bit float; the caller puts specials in."""
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    size = np.where(
        exponent == 0,
        mantissa * 2.0 ** (1 - bias),
        (1 + mantissa) * 2.0 ** (exponent - float(bias)),
    )
    return np.where(codes < 128, size, -size).astype(np.float16)


def _e4m3() -> npt.NDArray[np.float16]:
    table = _small_floats(4, 3, 7)
    table.view(np.uint16)[[0x7F, 0xFF]] = 0x7E00, 0xFE00  # NaN, and that with a sign
    return table


def _e5m2() -> npt.NDArray[np.float16]:
    """The values of float8 E5M2, which is the upper half of a float16, specials too."""
    return (np.arange(256, dtype=np.uint16) << 8).view(np.float16)


_E4M3, _E5M2 = _e4m3(), _e5m2()


def _to_float32(array: Array, where: str) -> Array:
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(array).max(initial=0.0))
    if _FLOAT32_MAX < largest < np.inf:
        raise CheckpointError(
            f"{where} does not fit float32",
            found=f"a value of size {largest:g}",
            remedy="the file is damaged, or the training failed",
        )
    return array.astype(np.float32)


# Type in the file: type that it becomes, and how.
_DECODERS: Mapping[str, tuple[str, Callable[[Array, str], Array]]] = {
    "F8_E4M3": ("F16", lambda array, _: _E4M3[array]),
    "F8_E5M2": ("F16", lambda array, _: _E5M2[array]),
    "F64": ("F32", _to_float32),
}

BECOMES: Mapping[str, str] = {tag: target for tag, (target, _) in _DECODERS.items()}
"""The number format that each decoded format is read as."""


@dataclass(frozen=True, slots=True)
class Decoded(Wrapper):
    """A stored tensor of a foreign number format, read in one that networks compute with."""

    @property
    def dtype(self) -> str:
        """The safetensors tag of the format that it is read in."""
        return BECOMES[self.whole.dtype]

    def array(self) -> Array:
        """The decoded values. Raises CheckpointError where they do not fit."""
        _, decode = _DECODERS[self.whole.dtype]
        return decode(self.whole.array(), f"{self.where}: {self.name}")


def decoded(stored: Stored) -> Stored:
    """A tensor as a network can take it: itself, unless its type has to become another."""
    return Decoded(stored) if stored.dtype in _DECODERS else stored
