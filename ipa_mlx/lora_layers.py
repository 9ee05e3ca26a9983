"""Layers with a low-rank change beside them, and copies of layers with one inside."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn


@dataclass(frozen=True, slots=True)
class LowRankChange:
    """down (r, inputs), or (r, kh, kw, inputs) before a convolution; up (outputs, r)."""

    down: mx.array
    up: mx.array

    def scaled(self, factor: float) -> LowRankChange:
        """`factor` times as strong; the product is rounded once."""
        up = (self.up.astype(mx.float32) * factor).astype(self.up.dtype)
        return LowRankChange(self.down, up)

    @property
    def nbytes(self) -> int:
        """What it holds."""
        return self.down.nbytes + self.up.nbytes


def joined(changes: Sequence[LowRankChange]) -> LowRankChange:
    """Their sum as one change, whose rank is the sum of theirs: one pair of products a layer."""
    if len(changes) == 1:
        return changes[0]
    return LowRankChange(
        mx.concatenate([change.down for change in changes]),
        mx.concatenate([change.up for change in changes], axis=1),
    )


class ChangedLayer(nn.Module):
    """W x + up (down x): a linear layer, quantised or not, or a convolution, and what changes it.

    The layer itself is kept as it is. The change is no parameter of the network.
    """

    def __init__(self, base: nn.Module, change: LowRankChange) -> None:
        super().__init__()
        self.base = base
        self.change = change

    @property
    def weight(self) -> mx.array:
        """The layer's own: others ask for its type."""
        return self.base.weight

    def __call__(self, x: mx.array) -> mx.array:
        """As the layer's."""
        change = self.change
        if change.down.ndim == 2:
            return self.base(x) + (x @ change.down.T) @ change.up.T
        inner = mx.conv2d(x, change.down, self.base.stride, self.base.padding)
        return self.base(x) + inner @ change.up.T


def merged(base: nn.Module, change: LowRankChange) -> nn.Module:
    """A copy of a layer with the change in its weight: summed in float32 and rounded once."""
    down, up = change.down.astype(mx.float32), change.up.astype(mx.float32)
    product = (up @ down.reshape(len(down), -1)).reshape(base.weight.shape)
    layer = copy.copy(base)
    layer.weight = (base.weight.astype(mx.float32) + product).astype(base.weight.dtype)
    return layer
