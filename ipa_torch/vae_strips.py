"""diffusers' VAE in strips of rows: the whole picture's result in less memory.

Diffusers' modules are used as they are, each on some rows at a time: a norm with the statistics of
the whole picture, a convolution with its neighbours' rows, the attention in the middle with a few
queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from ipa.backend.strips import STRIP_NUMBERS, Strips, neighbours, spans

_SCORES = 4  # numbers of attention's scores at a time, in those of a strip

Rows = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class StripWalk:
    """A walk through a VAE; `numbers` are those in a strip, about."""

    numbers: int = STRIP_NUMBERS

    def decode(self, vae: AutoencoderKL, scaled: torch.Tensor) -> torch.Tensor:
        """`AutoencoderKL.decode` of latents (1, C, h, w): their picture."""
        decoder: Any = vae.decoder
        if vae.config.use_post_quant_conv:
            scaled = vae.post_quant_conv(scaled)
        x = self._convolved(decoder.conv_in, _strips([scaled]))
        x = self._middle(decoder.mid_block, x)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x = self._resnet(resnet, x)
            for sampler in block.upsamplers or ():
                x = self._upsampled(sampler.conv, x)
        act = _activated(decoder.conv_norm_out, decoder.conv_act, x)
        whole: torch.Tensor = self._convolved(decoder.conv_out, x, act).whole()
        return whole

    def moments(self, vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
        """A picture (1, 3, H, W) to what `AutoencoderKL.encode` makes its distribution of."""
        encoder: Any = vae.encoder
        x = self._convolved(encoder.conv_in, _strips([pixels]))
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                x = self._resnet(resnet, x)
            for sampler in block.downsamplers or ():
                x = self._downsampled(sampler.conv, x)
        x = self._middle(encoder.mid_block, x)
        act = _activated(encoder.conv_norm_out, encoder.conv_act, x)
        moments: torch.Tensor = self._convolved(encoder.conv_out, x, act).whole()
        return vae.quant_conv(moments) if vae.config.use_quant_conv else moments

    def _middle(self, block: Any, x: Strips) -> Strips:
        x = self._resnet(block.resnets[0], x)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            if attention is not None:
                x = self._attended(attention, x)
            x = self._resnet(resnet, x)
        return x

    def _resnet(self, block: Any, x: Strips) -> Strips:
        """A block's shortcut is made along with its first convolution, so that x can go."""
        first, middle = _activated(block.norm1, block.nonlinearity, x), x.like()
        skip = x if block.conv_shortcut is None else x.like()
        for top, end in self._spans(x, block.conv1):
            middle.add(_rows_of(block.conv1, x, top, end, first))
            if skip is not x:
                skip.add(block.conv_shortcut(x.rows(top, end)))
                x.forget(end - 1)
        second, made = _activated(block.norm2, block.nonlinearity, middle), x.like()
        for top, end in self._spans(middle, block.conv2):
            part = _rows_of(block.conv2, middle, top, end, second)
            made.add(part.add_(skip.rows(top, end)).div_(block.output_scale_factor))
            middle.forget(end - 1)
            skip.forget(end)
        return made

    def _convolved(self, layer: torch.nn.Conv2d, x: Strips, before: Rows | None = None) -> Strips:
        made = x.like()
        for top, end in self._spans(x, layer):
            made.add(_rows_of(layer, x, top, end, before))
            x.forget(end - 1)
        return made

    def _upsampled(self, layer: torch.nn.Conv2d, x: Strips) -> Strips:
        """Each strip straight from the small picture: the large input is never there."""
        _, channels, height, width = x.shape
        made = x.like()
        for top, end in spans(2 * height, 2 * width * channels, self.numbers):
            first, last = neighbours(top, end, 2 * height)
            begin = first // 2
            rows = x.rows(begin, (last + 1) // 2)
            rows = functional.interpolate(rows, scale_factor=2.0, mode="nearest")
            rows = rows[:, :, first - 2 * begin : last - 2 * begin]
            made.add(_conv(layer, rows, int(top == 0), int(end == 2 * height)))
            x.forget((end - 1) // 2)
        return made

    def _downsampled(self, layer: torch.nn.Conv2d, x: Strips) -> Strips:
        """Zeros at the right and the bottom only."""
        _, channels, height, width = x.shape
        made = x.like()
        for top, end in spans(height // 2, width * channels, self.numbers):
            below = max(2 * end + 1 - height, 0)
            rows = x.rows(2 * top, 2 * end + 1 - below)
            made.add(layer(functional.pad(rows, (0, 1, 0, below))))
            x.forget(2 * end)
        return made

    def _attended(self, attention: Any, x: Strips) -> Strips:
        normed = _normed(attention.group_norm, x)
        whole = x.whole()
        _, channels, height, width = whole.shape
        parts = [
            normed(whole[:, :, top:end])
            for top, end in spans(height, width * channels, self.numbers)
        ]
        flat = torch.cat(parts, dim=2).flatten(2).transpose(1, 2)
        del parts
        layers = (attention.to_q, attention.to_k, attention.to_v)
        q, k, v = (_by_head(layer(flat), attention.heads) for layer in layers)
        del flat
        made = torch.empty_like(whole).flatten(2)
        for top, end in spans(q.shape[2], k.shape[2], _SCORES * self.numbers):
            part = functional.scaled_dot_product_attention(q[:, :, top:end], k, v)
            part = part.transpose(1, 2).flatten(2)
            made[:, :, top:end] = attention.to_out[0](part).transpose(1, 2)
        return _strips([(made.view_as(whole).add_(whole)).div_(attention.rescale_output_factor)])

    def _spans(self, x: Strips, layer: torch.nn.Conv2d) -> list[tuple[int, int]]:
        """Strips for the larger of a convolution's two sides."""
        row = x.shape[3] * max(layer.in_channels, layer.out_channels)
        return spans(x.height, row, self.numbers)


def _strips(parts: list[torch.Tensor]) -> Strips:
    return Strips(2, partial(torch.cat, dim=2), parts)


def _rows_of(
    layer: torch.nn.Conv2d, x: Strips, top: int, end: int, before: Rows | None
) -> torch.Tensor:
    """Some rows of what a convolution makes, of rows that `before` is applied to."""
    rows = x.rows(*neighbours(top, end, x.height))
    rows = rows if before is None else before(rows)
    return _conv(layer, rows, int(top == 0), int(end == x.height))


def _conv(layer: torch.nn.Conv2d, rows: torch.Tensor, above: int, below: int) -> torch.Tensor:
    """A 3×3 convolution whose rows of zeros are above and below only where it is said."""
    if above and below:
        made: torch.Tensor = layer(rows)
        return made
    rows = functional.pad(rows, (0, 0, above, below))
    return functional.conv2d(rows, layer.weight, layer.bias, padding=(0, 1))


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _normed(norm: torch.nn.GroupNorm, x: Strips) -> Rows:
    """A norm of some rows with the statistics of the picture, in float32 or wider."""
    precision = torch.promote_types(norm.weight.dtype, torch.float32)
    mean = _group_mean(x, norm.num_groups, lambda rows: rows.to(precision))
    variance = _group_mean(x, norm.num_groups, lambda rows: (rows.to(precision) - mean).square_())
    weight, bias = (row.to(precision)[None, :, None, None] for row in (norm.weight, norm.bias))
    factor = weight * torch.rsqrt(variance + norm.eps)
    return lambda rows: (rows.to(precision) - mean).mul_(factor).add_(bias).to(rows.dtype)


def _group_mean(x: Strips, groups: int, function: Rows) -> torch.Tensor:
    """The mean over each group of a function of a picture, as (1, C, 1, 1)."""
    rows = torch.cat([function(strip).mean(dim=3) for strip in x], dim=2)
    means = rows.mean(dim=2).unflatten(1, (groups, -1))
    return means.mean(dim=2, keepdim=True).expand_as(means).flatten(1)[:, :, None, None]


def _activated(norm: torch.nn.GroupNorm, activation: Rows, x: Strips) -> Rows:
    normed = _normed(norm, x)
    return lambda rows: activation(normed(rows))
