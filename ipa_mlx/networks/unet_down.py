"""The half of a UNet that goes down, with its middle: the UNet's, and what ControlNets copy."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ipa.backend.text import Sizes, TextStates
from ipa.model.unet import DownSpec

from .attention import Transformer2D
from .context import Context
from .layers import AddedEmbedding, Convolution, TimestepEmbedding, silu
from .unet_blocks import DownBlock, MidBlock, ResnetBlock


class DownHalf(nn.Module):
    """Embeds the timestep, and goes down. Attribute names are the checkpoint's."""

    def __init__(self, spec: DownSpec) -> None:
        super().__init__()
        self.spec = spec
        first, last = spec.channels[0], spec.channels[-1]
        self.conv_in = Convolution(spec.in_channels, first)
        wave = {"flip_sin_to_cos": spec.flip_sin_to_cos, "freq_shift": spec.freq_shift}
        self.time_embedding = TimestepEmbedding(first, spec.time_width, spec.guidance_width, **wave)
        if spec.addition is not None:
            self.add_embedding = AddedEmbedding(spec.addition, spec.time_width, **wave)
        self.down_blocks = [_down_block(spec, level) for level in range(len(spec.channels))]
        self.mid_block = MidBlock(
            [resnet(spec, last, last) for _ in range(2)],
            transformer(spec, len(spec.channels) - 1),
        )

    def embed_time(self, timestep: float | mx.array, context: Context, batch: int) -> mx.array:
        """Embed a timestep in [0, 1000) and what is added to it, activated: (1 or B, width)."""
        time = self.time_embedding(timestep, context.guidance)
        added = context.added
        if added is not None:
            time = time + mx.repeat(added, batch // added.shape[0], axis=0)
        return silu(time)

    def descend(
        self,
        x: mx.array,
        time: mx.array,
        context: Context,
        features: Sequence[mx.array | None] = (),
    ) -> tuple[mx.array, list[mx.array]]:
        """Run the way down: from `conv_in`'s output to the middle's, and every result between.

        `features`, if any, are what T2I-Adapters add to each block, in order, and to the middle.
        """
        skips, waiting = [x], iter(features)
        for down in self.down_blocks:
            x, results = down(x, time, context, next(waiting, None))
            skips += results
        x, last = self.mid_block(x, time, context), next(waiting, None)
        return (x if last is None else x + last), skips

    def begin(
        self,
        x: mx.array,
        time: mx.array,
        context: Context,
        count: int,
        features: Sequence[mx.array | None] = (),
    ) -> list[mx.array]:
        """The first `count` results of the way down, `conv_in`'s being one; nothing else is run."""
        skips, waiting = [x], iter(features)
        for down in self.down_blocks:
            missing, feature = count - len(skips), next(waiting, None)
            if missing <= 0:
                break
            if missing < down.results:
                skips += down.begin(skips[-1], time, context, missing, feature)
            else:
                skips += down(skips[-1], time, context, feature)[1]
        return skips


def resnet(spec: DownSpec, inputs: int, outputs: int) -> ResnetBlock:
    """A resnet that takes the timestep embedding."""
    return ResnetBlock(inputs, outputs, spec.norm_groups, spec.norm_eps, spec.time_width)


def transformer(spec: DownSpec, level: int) -> Transformer2D:
    """The transformer of a level."""
    return Transformer2D(
        spec.channels[level],
        spec.context_width,
        spec.heads[level],
        spec.transformer_layers[level],
        spec.norm_groups,
        upcast=spec.upcast_attention,
    )


def _down_block(spec: DownSpec, level: int) -> DownBlock:
    width = spec.channels[level]
    inputs = [spec.channels[max(level - 1, 0)], *[width] * (spec.layers[level] - 1)]
    attends = spec.down_attention[level]
    return DownBlock(
        [resnet(spec, i, width) for i in inputs],
        [transformer(spec, level) for _ in inputs if attends],
        downsample=width if level < len(spec.channels) - 1 else None,
    )


def added_conditioning(
    unet: DownHalf, text: Sequence[TextStates], sizes: Sequence[Sizes]
) -> mx.array | None:
    """SDXL's addition to the timestep embedding, (R, time width); None without sizes."""
    if not sizes:
        return None
    return unet.add_embedding(mx.concatenate([row.pooled for row in text]), sizes)
