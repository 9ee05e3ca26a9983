"""The UNet of Stable Diffusion (diffusers' UNet2DConditionModel), built from its spec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx

from ipa.arrays import Floats
from ipa.backend.deep import DeepPart
from ipa.backend.past import PastFeatures
from ipa.model.sites import cross_attention_sites
from ipa.model.unet import UNetSpec

from .attention import CrossAttention
from .context import Context
from .layers import Convolution
from .norms import GroupNorm
from .unet_blocks import UpBlock
from .unet_down import DownHalf, resnet, transformer


class UNet(DownHalf):
    """Predicts the noise (or v) in latents. Attribute names are the checkpoint's."""

    spec: UNetSpec

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__(spec)
        first = spec.channels[0]
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

    def embed_guidance(self, guidance: Floats | None) -> mx.array | None:
        """Embed the guidance scale's sinusoid (1, K) for the timestep; None if there is none."""
        if guidance is None:
            return None
        projection = self.time_embedding.cond_proj
        return projection(mx.array(guidance).astype(projection.weight.dtype))

    def __call__(
        self,
        latents: mx.array,
        timestep: float | mx.array,
        context: Context,
        residuals: Sequence[mx.array | None] = (),
        features: Sequence[mx.array | None] = (),
        deep: DeepPart | None = None,
        past: PastFeatures | None = None,
    ) -> mx.array:
        """Latents (B, H, W, C) at a timestep in [0, 1000) to the prediction, of the same shape.

        A timestep that is an array is its sinusoid already, (1, width) in float32.

        `residuals`, if any, are what ControlNets add to every result on the way down, in order, and
        to the middle's; `features` what T2I-Adapters add to the blocks. None adds nothing. Of
        `deep` and `past` see `Backend.predict`.
        """
        time, x = self.embed_time(timestep, context, latents.shape[0]), self.conv_in(latents)
        given: list[mx.array] | None = None
        if deep is None or deep.feature is None:
            given = None if deep is None else []
            x, skips = self.descend(x, time, context, features)
            *skips, x = _with(residuals, [*skips, x])
        else:
            skips = self.begin(x, time, context, deep.shallow, features)
            skips, x = _with(residuals, skips), deep.feature[-latents.shape[0] :]
        for up, count in self._last_layers(len(skips)):
            skips, skip = skips[:-count], skips[-count:]
            climb = up if count == len(up.resnets) else up.finish
            x = climb(x, skip, time, context, skips[-1].shape[1:3] if skips else (), given)
        if deep is not None and given is not None:
            deep.feature = given[-deep.shallow]
        if past is not None:
            past.keep(x)
        return self.finish(x)

    def finish(self, x: mx.array) -> mx.array:
        """The last feature (B, H, W, C) to the prediction."""
        return self.conv_out(self.conv_norm_out.activated(x))

    def _last_layers(self, count: int) -> Iterator[tuple[UpBlock, int]]:
        """The blocks that have the last `count` layers of the way up, and how many each has."""
        left_out = sum(len(up.resnets) for up in self.up_blocks) - count
        for up in self.up_blocks:
            layers = len(up.resnets) - max(left_out, 0)
            left_out -= len(up.resnets)
            if layers > 0:
                yield up, layers


def _with(residuals: Sequence[mx.array | None], results: list[mx.array]) -> list[mx.array]:
    """Results with the residuals of ControlNets, if there are any."""
    if not residuals:
        return results
    pairs = zip(results, residuals, strict=True)
    return [result if more is None else result + more for result, more in pairs]


def _up_block(spec: UNetSpec, block: int) -> UpBlock:
    level = len(spec.channels) - 1 - block
    width, below = spec.channels[level], spec.channels[min(level + 1, len(spec.channels) - 1)]
    count = spec.layers[level] + 1
    carried = [below, *[width] * (count - 1)]
    skipped = [*[width] * (count - 1), spec.channels[max(level - 1, 0)]]
    attends = spec.up_attention[block]
    return UpBlock(
        [resnet(spec, a + b, width) for a, b in zip(carried, skipped, strict=True)],
        [transformer(spec, level) for _ in range(count) if attends],
        upsample=width if level > 0 else None,
    )
