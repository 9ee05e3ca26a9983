"""Group normalisation, in the form that suits each device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import mlx.core as mx
import mlx.nn as nn

from ..device import anew, device, evaluate
from .layers import fused, silu
from .watching import is_watched

# Numbers in an array whose norm is evaluated in two steps on a CPU.
_MOST_NORMED = 1 << 22
# Numbers in a group that the fast layer norm takes on a GPU: it gives each group to one block of
# threads, and a UNet has 64 groups for as many blocks. A large picture's would be too long.
_MOST_IN_BLOCK = 1 << 19


@fused
def _standardize(x: mx.array, mean: mx.array, factor: mx.array, bias: mx.array) -> mx.array:
    return ((x.astype(mx.float32) - mean) * factor + bias).astype(x.dtype)


@fused
def _standardize_and_activate(
    x: mx.array, mean: mx.array, factor: mx.array, bias: mx.array
) -> mx.array:
    return silu((x.astype(mx.float32) - mean) * factor + bias).astype(x.dtype)


@fused
def _squared_distance(x: mx.array, mean: mx.array) -> mx.array:
    return mx.square(x.astype(mx.float32) - mean)


@fused
def _shift(x: mx.array, factor: mx.array, bias: mx.array) -> mx.array:
    return (x.astype(mx.float32) * factor + bias).astype(x.dtype)


@fused
def _shift_and_activate(x: mx.array, factor: mx.array, bias: mx.array) -> mx.array:
    return silu(x.astype(mx.float32) * factor + bias).astype(x.dtype)


class GroupNorm(nn.Module):
    """Group normalisation over (H, W, C/groups), its statistics in float32.

    On a CPU sums run over W, then H, then the group: short sums, so that float32 stays exact
    (nn.GroupNorm loses three digits on large pictures), and no transposed copy. The variance is
    that of centred values, since E[x²] − E[x]² cancels where the mean is large.

    On a GPU the same takes 22 kernels. There groups are laid side by side and given to the fast
    layer norm, which adds in float32 as a tree and centres too; what follows is one kernel, that
    reads the groups back in the order of the picture: 3 kernels, activated or not.
    """

    def __init__(self, groups: int, channels: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = mx.ones((channels,))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, C) to the same."""
        if self._fits_a_block(x):
            return self._grouped(x, _shift)
        return _standardize(anew(x), *self._of_whole(x))

    def activated(self, x: mx.array) -> mx.array:
        """The SiLU of the norm, in its last kernel where nobody watches the norm itself."""
        if is_watched(self) or not device().is_gpu:
            return silu(self(x))
        if self._fits_a_block(x):
            return self._grouped(x, _shift_and_activate)
        return _standardize_and_activate(anew(x), *self._of_whole(x))

    def statistics(self, strips: Iterable[mx.array]) -> tuple[mx.array, mx.array]:
        """Mean and factor of a picture that is in strips of rows, as of the whole, evaluated."""
        parts = list(strips)
        mean = self._group_mean(_row_means(parts, lambda x: x.astype(mx.float32)))
        factor = self._factor(_row_means(parts, lambda x: _squared_distance(anew(x), mean)))
        evaluate(mean, factor)
        return mean, factor

    def scaled(self, x: mx.array, mean: mx.array, factor: mx.array) -> mx.array:
        """Some rows of a picture whose mean and factor are these."""
        return _standardize(anew(x), mean, factor, self.bias.astype(mx.float32))

    def _fits_a_block(self, x: mx.array) -> bool:
        _, height, width, channels = x.shape
        return device().is_gpu and height * width * channels // self.groups <= _MOST_IN_BLOCK

    def _grouped(self, x: mx.array, then: Callable[..., mx.array]) -> mx.array:
        batch, height, width, channels = x.shape
        apart = (batch, height * width, self.groups, channels // self.groups)
        rows = x.reshape(apart).transpose(0, 2, 1, 3).reshape(batch, self.groups, -1)
        rows = mx.fast.layer_norm(rows, None, None, self.eps)
        normed = rows.reshape(batch, self.groups, *apart[1::2]).transpose(0, 2, 1, 3)
        return then(normed, *(a.reshape(apart[2:]) for a in (self.weight, self.bias))).reshape(
            x.shape
        )

    def _of_whole(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Mean, factor and bias of a picture."""
        mean = self._group_mean(x.astype(mx.float32).mean(axis=2))
        factor = self._factor(_squared_distance(anew(x), mean).mean(axis=2))
        if x.size > _MOST_NORMED and not device().is_gpu:
            evaluate(x, mean, factor)  # or MLX holds the squares beside what comes next
        return mean, factor, self.bias.astype(mx.float32)

    def _factor(self, squares: mx.array) -> mx.array:
        variance = self._group_mean(squares)
        return self.weight.astype(mx.float32) * mx.rsqrt(variance + self.eps)

    def _group_mean(self, rows: mx.array) -> mx.array:
        """The mean of each row (B, H, C) to that of each group, as (B, 1, 1, C)."""
        batch, _, channels = rows.shape
        per_channel = rows.mean(axis=1)
        per_group = per_channel.reshape(batch, self.groups, -1).mean(axis=-1, keepdims=True)
        spread = mx.broadcast_to(per_group, (batch, self.groups, channels // self.groups))
        return spread.reshape(batch, 1, 1, channels)


def _row_means(strips: Iterable[mx.array], function: Callable[[mx.array], mx.array]) -> mx.array:
    """The mean over W of a function of each strip (B, h, W, C), side by side: (B, H, C)."""
    means = []
    for strip in strips:
        means.append(function(strip).mean(axis=2))
        evaluate(means[-1])  # one by one: a strip in float32 is larger than the strip
    return mx.concatenate(means, axis=1)
