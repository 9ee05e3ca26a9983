"""The UNet of Stable Diffusion (diffusers' UNet2DConditionModel), built from its spec."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ipa.contract.sites import cross_attention_sites
from ipa.contract.unet_spec import UNetSpec

from .attention import CrossAttention, Transformer2D
from .blocks import DownBlock, MidBlock, ResnetBlock, UpBlock
from .conditioning import Context
from .layers import AddedEmbedding, Convolution, GroupNorm, TimestepEmbedding, silu


class UNet(nn.Module):
    """Predicts the noise (or v) in latents. Attribute names are the checkpoint's."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        first, last = spec.channels[0], spec.channels[-1]
        self.conv_in = Convolution(spec.in_channels, first)
        wave = {"flip_sin_to_cos": spec.flip_sin_to_cos, "freq_shift": spec.freq_shift}
        self.time_embedding = TimestepEmbedding(first, spec.time_width, **wave)
        if spec.addition is not None:
            self.add_embedding = AddedEmbedding(spec.addition, spec.time_width, **wave)
        self.down_blocks = [_down_block(spec, level) for level in range(len(spec.channels))]
        self.mid_block = MidBlock(
            [_resnet(spec, last, last) for _ in range(2)],
            _transformer(spec, len(spec.channels) - 1),
        )
        self.up_blocks = [_up_block(spec, block) for block in range(len(spec.channels))]
        self.conv_norm_out = GroupNorm(spec.norm_groups, first, spec.norm_eps)
        self.conv_out = Convolution(first, spec.out_channels)
        for rank, attention in enumerate(self.cross_attentions):
            attention.site = rank

    @property
    def cross_attentions(self) -> list[CrossAttention]:
        """The sites' modules, in the order of site numbers."""
        modules = dict(self.named_modules())
        return [modules[site.path] for site in cross_attention_sites(self.spec)]

    def __call__(self, latents: mx.array, timestep: float, context: Context) -> mx.array:
        """Latents (B, H, W, C) at a timestep in [0, 1000) to the prediction, of the same shape."""
        time = self.time_embedding(timestep)
        added = context.conditioning.added
        if added is not None:
            time = time + mx.repeat(added, latents.shape[0] // added.shape[0], axis=0)
        time = silu(time)
        x = self.conv_in(latents)
        skips = [x]
        for down in self.down_blocks:
            x, results = down(x, time, context)
            skips += results
        x = self.mid_block(x, time, context)
        for up in self.up_blocks:
            count = len(up.resnets)
            skips, own = skips[:-count], skips[-count:]
            x = up(x, own, time, context, skips[-1].shape[1:3] if skips else ())
        return self.conv_out(silu(self.conv_norm_out(x)))


def _resnet(spec: UNetSpec, inputs: int, outputs: int) -> ResnetBlock:
    return ResnetBlock(inputs, outputs, spec.norm_groups, spec.norm_eps, spec.time_width)


def _transformer(spec: UNetSpec, level: int) -> Transformer2D:
    return Transformer2D(
        spec.channels[level],
        spec.context_width,
        spec.heads[level],
        spec.transformer_layers[level],
        spec.norm_groups,
        upcast=spec.upcast_attention,
    )


def _down_block(spec: UNetSpec, level: int) -> DownBlock:
    width = spec.channels[level]
    inputs = [spec.channels[max(level - 1, 0)], *[width] * (spec.layers[level] - 1)]
    attends = spec.down_attention[level]
    return DownBlock(
        [_resnet(spec, i, width) for i in inputs],
        [_transformer(spec, level) for _ in inputs if attends],
        downsample=width if level < len(spec.channels) - 1 else None,
    )


def _up_block(spec: UNetSpec, block: int) -> UpBlock:
    level = len(spec.channels) - 1 - block
    width, below = spec.channels[level], spec.channels[min(level + 1, len(spec.channels) - 1)]
    count = spec.layers[level] + 1
    carried = [below, *[width] * (count - 1)]
    skipped = [*[width] * (count - 1), spec.channels[max(level - 1, 0)]]
    attends = spec.up_attention[block]
    return UpBlock(
        [_resnet(spec, a + b, width) for a, b in zip(carried, skipped, strict=True)],
        [_transformer(spec, level) for _ in range(count) if attends],
        upsample=width if level > 0 else None,
    )
