"""Writing quantised matrices: what is asked for, and one third of a matrix as it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ipa.contract.errors import RequestError
from ipa.contract.quantization import GROUP_SIZE, Quantization

from ..containers.checkpoint import QUANTIZED
from ..containers.dtypes import Array
from ..containers.safetensors_file import Writable
from ..tables.quantized_layers import Part, is_quantized, parts

R = TypeVar("R", bound=Writable)


@dataclass(frozen=True, slots=True)
class QuantizedRow:
    """Packed weights, scales or biases, computed from the matrix when they are written."""

    whole: Writable
    part: Part
    how: Quantization

    @property
    def name(self) -> str:
        """Name in the file."""
        return self.part.name

    @property
    def dtype(self) -> str:
        """U32, or the type of the matrix as it would be written."""
        return self.part.dtype or self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the file."""
        return self.part.shape

    def array(self) -> Array:
        """Read the matrix and compute it. Raises CheckpointError where that cannot be."""
        return self.part.compute(self.whole.array(), self.whole.dtype, self.how, self.whole.name)

    def release(self) -> None:
        """The matrix's values are not needed for now."""
        self.whole.release()


def wanted(bits: int | None, layout: str) -> Quantization | None:
    """What is asked for. Raises RequestError for what there is not."""
    how = Quantization.of(bits)
    if how is not None and layout != "mlx":
        raise RequestError(
            "only models in MLX's layout can be quantised here",
            found=f"{bits} bits in layout {layout!r}",
            remedy="leave one of the two out",
        )
    return how


def quantized(row: R, how: Quantization | None) -> Iterator[R | QuantizedRow]:
    """The rows that a tensor becomes: itself, unless the table says that it is quantised."""
    if how is None or not is_quantized(row.name, row.shape, how):
        yield row
        return
    for part in parts(row.name, row.shape, how):
        yield QuantizedRow(row, part, how)


def marks(rows: Iterable[object]) -> Mapping[str, str]:
    """Metadata of a file with these rows: how they are quantised, if any is."""
    how = next((row.how for row in rows if isinstance(row, QuantizedRow)), None)
    return {} if how is None else {QUANTIZED: how.tag}


def require_quantized(parts: Iterable[Iterable[object]], how: Quantization | None) -> None:
    """Raise RequestError if nothing at all is quantised that should be."""
    if how is not None and not any(map(marks, parts)):
        raise RequestError(
            "no layer of this model can be quantised",
            found=f"no width that is a multiple of {GROUP_SIZE}",
            remedy="leave quantize out",
        )
