"""LoRA: matrices of low rank that are added to the weights of a model.

A pair changes the weight of one layer by scale · up @ down; for a convolution, down has the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..containers.stored import Stored
from ..containers.values import cast, check_finite
from ..tables.converted import ConvertedTensor
from .names import LoraComponent, LoraModule


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraPair:
    """A layer's two low-rank matrices, with their alpha.

    Attributes:
        module: The layer.
        down: (rank, in), or (rank, in, height, width) before a convolution.
        up: (out, rank).
        alpha: scale · rank; None where the file does not say, which means scale 1.
    """

    module: LoraModule
    down: ConvertedTensor
    up: ConvertedTensor
    alpha: float | None

    @property
    def rank(self) -> int:
        """The rank of the change."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """The factor on the product of the matrices: alpha over rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lora(Mapping[tuple[LoraComponent, str], LoraPair]):
    """Pairs by component and path of the layer in our MLX module, as all that is read for MLX;
    `pair.module.path` is the path in diffusers or transformers.

    Attributes:
        where: The file, for messages.
        base: The base model that it is for, in words.
        pairs: The pairs, in the order of the model's layers.
        dropped: Names in the file that were left out, and why: the caller asked for it, or the
            layer stands in the file under another name too.
        bundled: Learned words that lie in the file (OneTrainer), which change no layer, by name.
    """

    where: str
    base: str
    pairs: Mapping[tuple[LoraComponent, str], LoraPair]
    dropped: Mapping[str, str] = field(default_factory=dict)
    bundled: Mapping[str, Stored] = field(default_factory=dict)

    def __getitem__(self, key: tuple[LoraComponent, str]) -> LoraPair:
        return self.pairs[key]

    def __iter__(self) -> Iterator[tuple[LoraComponent, str]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


def delta(pair: LoraPair, layout: Literal["mlx", "diffusers"] = "mlx") -> npt.NDArray[np.float32]:
    """The change of a layer's weight: computed in float32, in the weight's shape.

    Args:
        pair: The change.
        layout: "mlx" (convolutions OHWI, 1×1 ones matrices) or "diffusers" (OIHW).

    Raises:
        CheckpointError: The matrices or their product hold NaN or infinity.
    """
    down, up = (cast(t.array(), t.dtype, "F32", t.name) for t in (pair.down, pair.up))
    with np.errstate(over="ignore", invalid="ignore"):
        product: npt.NDArray[np.float32] = up @ down.reshape(pair.rank, -1)
        product *= np.float32(pair.scale)
    check_finite(product, "F32", f"the product for {pair.module.path}", pair.down.stored.where)
    weight = product.reshape(len(up), *down.shape[1:])
    if layout == "mlx":
        return weight
    return np.ascontiguousarray(pair.module.layout.to_source(weight, pair.module.shape))
