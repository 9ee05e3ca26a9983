"""ControlNet (arXiv 2302.05543; diffusers' ControlNetModel), built from its spec."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn

from ipa.model.controlnet import ControlNetSpec

from .attention import CrossAttention
from .context import Context
from .layers import Convolution, silu
from .unet_down import DownHalf


class ConditioningEmbedding(nn.Module):
    """Convolutions that bring the control picture down to the latents' size."""

    def __init__(self, spec: ControlNetSpec) -> None:
        super().__init__()
        widths = spec.embedding_channels
        self.conv_in = Convolution(spec.conditioning_channels, widths[0])
        self.blocks: list[nn.Conv2d] = []
        for width, wider in pairwise(widths):
            halving = nn.Conv2d(width, wider, 3, stride=2, padding=1)
            self.blocks += [Convolution(width, width), halving]
        self.conv_out = Convolution(widths[-1], spec.channels[0])

    def __call__(self, pixels: mx.array) -> mx.array:
        """(1, H, W, 3) in [0, 1] to (1, h, w, C)."""
        x = silu(self.conv_in(pixels))
        for block in self.blocks:
            x = silu(block(x))
        return self.conv_out(x)


class ControlNet(DownHalf):
    """A ControlNet: residuals for the UNet. Attribute names are the checkpoint's."""

    spec: ControlNetSpec

    def __init__(self, spec: ControlNetSpec) -> None:
        super().__init__(spec)
        self.conditioning_embedding = ConditioningEmbedding(spec)
        self.controlnet_down_blocks = [nn.Linear(width, width) for width in spec.residual_channels]
        self.controlnet_mid_block = nn.Linear(spec.channels[-1], spec.channels[-1])
        for rank, attention in enumerate(self.cross_attentions):
            attention.site = rank

    @property
    def cross_attentions(self) -> list[CrossAttention]:
        """The cross-attentions, in the order of execution."""
        return [
            layer.attn2
            for block in (*self.down_blocks, self.mid_block)
            for attention in block.attentions
            for layer in attention.transformer_blocks
        ]

    def embed(self, pixels: mx.array) -> mx.array:
        """Embed the control picture (1, H, W, 3), red first, once for all steps: (1, h, w, C)."""
        is_turned = self.spec.channel_order == "bgr"
        return self.conditioning_embedding(pixels[..., ::-1] if is_turned else pixels)

    def __call__(
        self,
        latents: mx.array,
        timestep: float,
        context: Context,
        picture: mx.array,
        weights: Sequence[float],
    ) -> list[mx.array | None]:
        """The residuals of the UNet's results on the way down, and of the middle's.

        Args:
            latents: (B, h, w, C).
            timestep: In [0, 1000).
            context: The text alone, by this network's own weights.
            picture: What `embed` gave.
            weights: Of each result; None stands for one whose weight is 0. Of the first results
                alone, if only those are to be computed.
        """
        time = self.embed_time(timestep, context, latents.shape[0])
        x = self.conv_in(latents) + picture
        layers = [*self.controlnet_down_blocks, self.controlnet_mid_block][: len(weights)]
        if len(weights) <= len(self.controlnet_down_blocks):
            results = self.begin(x, time, context, len(weights))
        else:
            x, results = self.descend(x, time, context)
            results.append(x)
        return [
            self._pooled(layer(result) * weight) if weight else None
            for layer, result, weight in zip(layers, results, weights, strict=True)
        ]

    def _pooled(self, result: mx.array) -> mx.array:
        if not self.spec.global_pool_conditions:
            return result
        return result.mean(axis=(1, 2), keepdims=True)
