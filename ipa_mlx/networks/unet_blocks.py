"""The blocks that the UNet and the VAE are built of."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from .attention import Transformer2D
from .context import Context
from .layers import Convolution, upsample_nearest
from .norms import GroupNorm


class ResnetBlock(nn.Module):
    """Two 3×3 convolutions with a residual; the timestep enters between them."""

    def __init__(
        self, inputs: int, outputs: int, groups: int, eps: float, time_width: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, inputs, eps)
        self.conv1 = Convolution(inputs, outputs)
        if time_width is not None:
            self.time_emb_proj = nn.Linear(time_width, outputs)
        self.norm2 = GroupNorm(groups, outputs, eps)
        self.conv2 = Convolution(outputs, outputs)
        if inputs != outputs:
            self.conv_shortcut = nn.Linear(inputs, outputs)

    def __call__(self, x: mx.array, time: mx.array | None = None) -> mx.array:
        """(B, H, W, inputs) to (B, H, W, outputs); `time` is (1 or B, time_width), activated."""
        y = self.conv1(self.norm1.activated(x))
        if time is not None:
            y = y + self.time_emb_proj(time)[:, None, None, :]
        y = self.conv2(self.norm2.activated(y))
        return y + (self.conv_shortcut(x) if "conv_shortcut" in self else x)


class DownBlock(nn.Module):
    """One level going down: resnets, each followed by a transformer if there are any."""

    def __init__(
        self, resnets: list[ResnetBlock], attentions: list[Transformer2D], downsample: int | None
    ) -> None:
        super().__init__()
        self.resnets, self.attentions = resnets, attentions
        if downsample is not None:
            self.downsample = nn.Conv2d(downsample, downsample, 3, stride=2, padding=1)

    def __call__(
        self, x: mx.array, time: mx.array, context: Context, feature: mx.array | None = None
    ) -> tuple[mx.array, list[mx.array]]:
        """The output, and every intermediate result for the way up.

        `feature` is added to the last attention's output, or to the block's if nothing attends; the
        way up sees it there too, as in diffusers.
        """
        skips = self.begin(x, time, context, len(self.resnets), feature)
        x = skips[-1]
        if "downsample" in self:
            x = self.downsample(x)
            skips.append(x)
        if not self.attentions and feature is not None:
            skips[-1] = x = x + feature
        return x, skips

    @property
    def results(self) -> int:
        """The number of results for the way up."""
        return len(self.resnets) + ("downsample" in self)

    def begin(
        self,
        x: mx.array,
        time: mx.array,
        context: Context,
        count: int,
        feature: mx.array | None = None,
    ) -> list[mx.array]:
        """The results of the first `count` resnets, each with its transformer if there are any."""
        skips = []
        for i, resnet in enumerate(self.resnets[:count]):
            x = resnet(x, time)
            if self.attentions:
                x = self.attentions[i](x, context)
            skips.append(x)
        if self.attentions and feature is not None and count == len(self.resnets):
            skips[-1] = x + feature
        return skips


class MidBlock(nn.Module):
    """The coarsest level: resnet, transformer, resnet."""

    def __init__(self, resnets: list[ResnetBlock], attention: Transformer2D) -> None:
        super().__init__()
        self.resnets, self.attentions = resnets, [attention]

    def __call__(self, x: mx.array, time: mx.array, context: Context) -> mx.array:
        """(B, H, W, C) to the same."""
        first, second = self.resnets
        return second(self.attentions[0](first(x, time), context), time)


class UpBlock(nn.Module):
    """One level going up: every resnet also takes the result of its mirror on the way down."""

    def __init__(
        self, resnets: list[ResnetBlock], attentions: list[Transformer2D], upsample: int | None
    ) -> None:
        super().__init__()
        self.resnets, self.attentions = resnets, attentions
        if upsample is not None:
            self.upsample = Convolution(upsample, upsample)

    def __call__(
        self,
        x: mx.array,
        skips: list[mx.array],
        time: mx.array,
        context: Context,
        size: Sequence[int],
        given: list[mx.array] | None = None,
    ) -> mx.array:
        """`skips` has one entry per resnet, the last first; `size` is the (H, W) to leave with.

        It cuts what a level of odd size gained by rounding up on the way down. `given` is filled
        with what each resnet is given from below.
        """
        return self.finish(x, skips, time, context, size, given)

    def finish(
        self,
        x: mx.array,
        skips: list[mx.array],
        time: mx.array,
        context: Context,
        size: Sequence[int],
        given: list[mx.array] | None = None,
    ) -> mx.array:
        """The last resnets alone, as many as there are `skips`, and the end."""
        first = len(self.resnets) - len(skips)
        for i, skip in enumerate(reversed(skips), start=first):
            if given is not None:
                given.append(x)
            x = self.resnets[i](mx.concatenate([x, skip], axis=-1), time)
            if self.attentions:
                x = self.attentions[i](x, context)
        if "upsample" in self:
            x = self.upsample(upsample_nearest(x)[:, : size[0], : size[1]])
        return x
