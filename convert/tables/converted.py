"""A checkpoint under our MLX modules' names: every tensor checked by header, none read yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ipa.errors import CheckpointError
from ipa.model.ignoring import Contents
from ipa.model.quantization import Quantization

from ..containers.dtypes import WEIGHTS, Array
from ..containers.stored import Stored
from ..containers.values import check_finite
from .layout import Layout, Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertedTensor:
    """One tensor on its way to MLX.

    Attributes:
        name: Its name in the MLX module.
        tensor: What the original checkpoint calls it and how it stores it.
        layout: What is done to its axes on reading; AS_IS if the file is converted already.
        stored: Where its values are.
    """

    name: str
    tensor: Tensor
    layout: Layout
    stored: Stored

    @property
    def dtype(self) -> str:
        """ "F32", "F16" or "BF16"; "U32" for packed weights."""
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape in MLX."""
        return self.tensor.target_shape

    def check(self, values: Array) -> None:
        """Raise CheckpointError for stored values that hold NaN or infinity; BF16 as uint16."""
        if self.dtype in WEIGHTS:
            check_finite(values, self.dtype, self.stored.name, self.stored.where)

    def array(self) -> Array:
        """Read the tensor: contiguous, in MLX's layout; BF16 as uint16.

        Raises:
            CheckpointError: It holds NaN or infinity.
        """
        values = self.stored.array()
        self.check(values)
        return np.require(self.layout.to_target(values), requirements=["C", "ALIGNED"])

    def original(self) -> Array:
        """Read the tensor as the original checkpoint lays it out: the inverse conversion."""
        values = self.tensor.layout.to_source(self.array(), self.tensor.shape)
        return np.ascontiguousarray(values)


@dataclass(frozen=True, slots=True, eq=False)
class Converted(Mapping[str, ConvertedTensor]):
    """Tensors by their names in MLX, with what was left out of their file.

    Attributes:
        where: The file or folder, for messages.
        tensors: The tensors.
        dropped: Names in the file that were left out, and why that loses nothing.
        quantization: How its matrices are quantised in the file; None where they are not.
    """

    where: str
    tensors: Mapping[str, ConvertedTensor]
    dropped: Mapping[str, str] = field(default_factory=dict)
    quantization: Quantization | None = None

    def __getitem__(self, name: str) -> ConvertedTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def contents(self) -> Contents:
        """The names in the file."""
        return Contents(tuple(t.stored.name for t in self.values()), tuple(self.dropped))

    def require_precise(self) -> None:
        """Raise CheckpointError if weights are quantised: the original values are gone."""
        if self.quantization is not None:
            raise CheckpointError(
                f"{self.where} is quantised, which cannot be undone",
                found=f"{self.quantization.bits} bits",
                remedy="convert the original model, or a folder that is not quantised",
            )

    def originals(self) -> Iterator[tuple[str, str, Array]]:
        """The tensors back in the original layout: (name, dtype, values).

        Raises:
            CheckpointError: It is quantised.
        """
        self.require_precise()
        for tensor in self.tensors.values():
            yield tensor.tensor.name, tensor.dtype, tensor.original()
