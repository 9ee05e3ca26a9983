"""The VAE in strips of rows, evaluated one by one: the whole picture's result in less memory.

A norm takes the statistics of the whole picture, a convolution the neighbours of its rows, the
attention in the middle a few queries at a time. At each layer the network holds at most its input
and what lies between its two convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from ipa.backend.strips import STRIP_NUMBERS, Strips, neighbours, spans

from .device import evaluate
from .networks.attention import attend, merge_heads, split_heads
from .networks.layers import Convolution, silu, upsample_nearest
from .networks.norms import GroupNorm
from .networks.unet_blocks import ResnetBlock
from .networks.vae import Vae, VaeAttention, VaeMidBlock

_SCORES = 4  # numbers of attention's scores at a time, in those of a strip

Rows = Callable[[mx.array], mx.array]


@dataclass(frozen=True, slots=True)
class StripWalk:
    """A walk through a VAE; `numbers` are those in a strip, about."""

    numbers: int = STRIP_NUMBERS

    def decode(self, vae: Vae, latents: mx.array) -> mx.array:
        """See `Vae.decode`."""
        decoder = vae.decoder
        x = self._convolved(decoder.conv_in, _strips([vae.unscaled(latents)]))
        x = self._middle(decoder.mid_block, x)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x = self._resnet(resnet, x)
            if "upsample" in block:
                x = self._upsampled(block.upsample, x)
        return self._convolved(decoder.conv_out, x, _activated(decoder.conv_norm_out, x)).whole()

    def moments(self, vae: Vae, pixels: mx.array) -> mx.array:
        """See `Vae.moments`."""
        encoder = vae.encoder
        x = self._convolved(encoder.conv_in, _strips([pixels]))
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                x = self._resnet(resnet, x)
            if "downsample" in block:
                x = self._downsampled(block.downsample, x)
        x = self._middle(encoder.mid_block, x)
        x = self._convolved(encoder.conv_out, x, _activated(encoder.conv_norm_out, x))
        return vae.quantized(x.whole())

    def _middle(self, block: VaeMidBlock, x: Strips) -> Strips:
        x = self._resnet(block.resnets[0], x)
        for attention in block.attentions:
            x = self._attended(attention, x)
        return self._resnet(block.resnets[1], x)

    def _resnet(self, block: ResnetBlock, x: Strips) -> Strips:
        """A block's shortcut is made along with its first convolution, so that x can go."""
        first, middle = _activated(block.norm1, x), x.like()
        skip = x.like() if "conv_shortcut" in block else x
        for top, end in self._spans(x, block.conv1):
            _keep(middle, _rows_of(block.conv1, x, top, end, first))
            if skip is not x:
                _keep(skip, block.conv_shortcut(x.rows(top, end)))
                x.forget(end - 1)
        second, made = _activated(block.norm2, middle), x.like()
        for top, end in self._spans(middle, block.conv2):
            _keep(made, _rows_of(block.conv2, middle, top, end, second) + skip.rows(top, end))
            middle.forget(end - 1)
            skip.forget(end)
        return made

    def _convolved(self, layer: Convolution, x: Strips, before: Rows | None = None) -> Strips:
        made = x.like()
        for top, end in self._spans(x, layer):
            _keep(made, _rows_of(layer, x, top, end, before))
            x.forget(end - 1)
        return made

    def _upsampled(self, layer: Convolution, x: Strips) -> Strips:
        """Each strip straight from the small picture: the large input is never there."""
        _, height, width, channels = x.shape
        made = x.like()
        for top, end in spans(2 * height, 2 * width * channels, self.numbers):
            first, last = neighbours(top, end, 2 * height)
            begin = first // 2
            rows = upsample_nearest(x.rows(begin, (last + 1) // 2))
            rows = rows[:, first - 2 * begin : last - 2 * begin]
            _keep(made, layer.of_rows(rows, above=int(top == 0), below=int(end == 2 * height)))
            x.forget((end - 1) // 2)
        return made

    def _downsampled(self, layer: nn.Conv2d, x: Strips) -> Strips:
        """Zeros at the right and the bottom only."""
        _, height, width, channels = x.shape
        made = x.like()
        for top, end in spans(height // 2, width * channels, self.numbers):
            below = max(2 * end + 1 - height, 0)
            rows = x.rows(2 * top, 2 * end + 1 - below)
            _keep(made, layer(mx.pad(rows, [(0, 0), (0, below), (0, 1), (0, 0)])))
            x.forget(2 * end)
        return made

    def _attended(self, attention: VaeAttention, x: Strips) -> Strips:
        normed, shape = _normed(attention.group_norm, x), x.shape
        x = _strips([x.whole()])
        flat = x.rows(0, shape[1])
        parts = [
            normed(x.rows(*span)) for span in spans(shape[1], shape[2] * shape[3], self.numbers)
        ]
        for part in parts:
            evaluate(part)
        y = mx.concatenate(parts, axis=1).reshape(shape[0], -1, shape[3])
        del parts
        layers = (attention.to_q, attention.to_k, attention.to_v)
        q, k, v = (split_heads(layer(y), attention.heads) for layer in layers)
        evaluate(q, k, v)
        del y
        made = []
        for top, end in spans(q.shape[2], k.shape[2], _SCORES * self.numbers):
            made.append(attention.to_out(merge_heads(attend(q[:, :, top:end], k, v))))
            evaluate(made[-1])
        whole = flat + mx.concatenate(made, axis=1).reshape(shape)
        evaluate(whole)
        return _strips([whole])

    def _spans(self, x: Strips, layer: Convolution) -> list[tuple[int, int]]:
        """Strips for the larger of a convolution's two sides."""
        outputs, _, _, inputs = layer.weight.shape
        return spans(x.height, x.shape[2] * max(inputs, outputs), self.numbers)


def _strips(parts: list[mx.array]) -> Strips:
    return Strips(1, partial(mx.concatenate, axis=1), parts)


def _keep(strips: Strips, part: mx.array) -> None:
    evaluate(part)
    strips.add(part)


def _rows_of(layer: Convolution, x: Strips, top: int, end: int, before: Rows | None) -> mx.array:
    """Some rows of what a convolution makes, of rows that `before` is applied to."""
    rows = x.rows(*neighbours(top, end, x.height))
    if before is not None:
        rows = before(rows)
    return layer.of_rows(rows, above=int(top == 0), below=int(end == x.height))


def _normed(norm: GroupNorm, x: Strips) -> Rows:
    mean, factor = norm.statistics(x)
    return lambda rows: norm.scaled(rows, mean, factor)


def _activated(norm: GroupNorm, x: Strips) -> Rows:
    normed = _normed(norm, x)
    return lambda rows: silu(normed(rows))
