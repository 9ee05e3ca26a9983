"""T2I-Adapter (arXiv 2302.08453; diffusers' T2IAdapter), built from its spec."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ipa.model.t2i_adapter import NARROWING, AdapterBlock, T2IAdapterSpec

from .layers import Convolution


class AdapterResnet(nn.Module):
    """Two convolutions with a residual; the second is 1×1 unless the adapter is a light one."""

    def __init__(self, width: int, *, light: bool) -> None:
        super().__init__()
        self.block1 = Convolution(width, width)
        self.block2 = Convolution(width, width) if light else nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, width) to the same."""
        return self.block2(nn.relu(self.block1(x))) + x


class AdapterStage(nn.Module):
    """One block: halved if asked, then residual blocks, narrower inside if the adapter is light."""

    def __init__(self, block: AdapterBlock, resnets: int, *, light: bool) -> None:
        super().__init__()
        self.halves = block.halves
        width = block.outputs // NARROWING if light else block.outputs
        if light or block.inputs != width:
            self.in_conv = nn.Linear(block.inputs, width)
        self.resnets = [AdapterResnet(width, light=light) for _ in range(resnets)]
        if light:
            self.out_conv = nn.Linear(width, block.outputs)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, inputs) to (B, h, w, outputs)."""
        if self.halves:
            x = halved(x)
        if "in_conv" in self:
            x = self.in_conv(x)
        for resnet in self.resnets:
            x = resnet(x)
        return self.out_conv(x) if "out_conv" in self else x


class T2IAdapter(nn.Module):
    """A T2I-Adapter: features of a control picture. Attribute names are the checkpoint's."""

    def __init__(self, spec: T2IAdapterSpec) -> None:
        super().__init__()
        self.spec = spec
        if not spec.is_light:
            self.conv_in = Convolution(spec.unshuffled, spec.channels[0])
        self.body = [AdapterStage(b, spec.resnets, light=spec.is_light) for b in spec.blocks]

    def __call__(self, pixels: mx.array) -> tuple[mx.array, ...]:
        """(1, H, W, in_channels) in [0, 1] to the features, each (1, h, w, C)."""
        x = unshuffled(pixels, self.spec.downscale_factor)
        if "conv_in" in self:
            x = self.conv_in(x)
        features = []
        for stage in self.body:
            x = stage(x)
            features.append(x)
        return tuple(features)


def unshuffled(x: mx.array, factor: int) -> mx.array:
    """Pixel unshuffle, (B, H, W, C) to (B, H/f, W/f, C·f²), in PixelUnshuffle's order."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    x = x.transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(batch, height // factor, width // factor, channels * factor**2)


def halved(x: mx.array) -> mx.array:
    """Average pooling over 2 × 2; of what there is at an odd edge (AvgPool2d, ceil_mode)."""
    batch, height, width, channels = x.shape
    x = mx.pad(x, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)], mode="edge")
    x = x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)
    return x.mean(axis=(2, 4))
