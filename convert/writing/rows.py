"""The rows of a file: each tensor as it is written, plain or quantised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from ipa.errors import RequestError
from ipa.model.quantization import GROUP_SIZE, Quantization

from ..containers.checkpoint import CONVERTED, QUANTIZED
from ..containers.dtypes import NAMES, Array
from ..containers.safetensors_file import Writable
from ..containers.values import cast
from ..tables.converted import Converted, ConvertedTensor
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
        """The row's name in the file."""
        return self.part.name

    @property
    def dtype(self) -> str:
        """The row's type: U32, or that of the matrix as it would be written."""
        return self.part.dtype or self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The row's shape in the file."""
        return self.part.shape

    def array(self) -> Array:
        """Read the matrix and quantise it. Raises CheckpointError where that cannot be."""
        return self.part.compute(self.whole.array(), self.whole.dtype, self.how, self.whole.name)

    def release(self) -> None:
        """Release the matrix's values."""
        self.whole.release()


def wanted(bits: int | None, layout: str) -> Quantization | None:
    """The quantisation that is asked for. Raises RequestError for what there is not."""
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


DType = Literal["float32", "float16", "bfloat16"]


Layout = Literal["mlx", "diffusers"]


METADATA: Mapping[Layout, Mapping[str, str]] = {"mlx": CONVERTED, "diffusers": {"format": "pt"}}
"""The metadata of files of each layout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A tensor as it is written: in MLX's names and axes, or in the original's."""

    tensor: ConvertedTensor
    dtype: str
    layout: Layout

    @property
    def name(self) -> str:
        """The row's name in the file."""
        return self.tensor.name if self.layout == "mlx" else self.tensor.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The row's shape in the file."""
        return self.tensor.shape if self.layout == "mlx" else self.tensor.tensor.shape

    def array(self) -> Array:
        """Read and convert the tensor. Raises CheckpointError if it does not fit the precision."""
        source = self.tensor
        values = source.array() if self.layout == "mlx" else source.original()
        return cast(values, source.dtype, self.dtype, f"{source.stored.where}: {self.name}")

    def release(self) -> None:
        """Release the tensor's values."""
        self.tensor.stored.release()


def rows(
    converted: Converted, dtype: DType | None, layout: Layout, how: Quantization | None = None
) -> Iterator[Writable]:
    """A component's tensors as they are written."""
    tag = None if dtype is None else NAMES[dtype]
    for tensor in converted.values():
        # Not through the map: writing takes minutes, in which the source may be cut short.
        apart = replace(tensor, stored=tensor.stored.apart())
        yield from quantized(Row(tensor=apart, dtype=tag or tensor.dtype, layout=layout), how)
