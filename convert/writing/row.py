"""A tensor on its way into a file, in one of two layouts and in any precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ipa.contract.quantization import Quantization

from ..containers.checkpoint import CONVERTED
from ..containers.dtypes import NAMES, Array
from ..containers.safetensors_file import Writable
from ..containers.values import cast
from ..tables.converted import Converted, ConvertedTensor
from .quantized_row import quantized

DType = Literal["float32", "float16", "bfloat16"]
Layout = Literal["mlx", "diffusers"]

METADATA: Mapping[Layout, Mapping[str, str]] = {"mlx": CONVERTED, "diffusers": {"format": "pt"}}
"""What files of each layout say of themselves."""


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


def rows(
    converted: Converted, dtype: DType | None, layout: Layout, how: Quantization | None = None
) -> Iterator[Writable]:
    """A component's tensors as they are written."""
    tag = None if dtype is None else NAMES[dtype]
    for tensor in converted.values():
        # Not through the map: writing takes minutes, in which the source may be cut short.
        apart = replace(tensor, stored=tensor.stored.apart())
        yield from quantized(Row(tensor=apart, dtype=tag or tensor.dtype, layout=layout), how)
