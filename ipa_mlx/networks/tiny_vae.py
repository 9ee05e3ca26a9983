"""A tiny autoencoder's decoder (diffusers' AutoencoderTiny, TAESD), for previews."""

from __future__ import annotations

from functools import partial
from math import prod

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ipa.arrays import Floats
from ipa.backend.protocol import PreviewDecoder
from ipa.model.vae import TinyVaeFiles, TinyVaeSpec
from ipa.watching import watch
from ipa_convert.reading.components import read_tiny_vae

from .layers import Convolution, upsample_nearest
from .weights import place

_BYTES = 4  # of a number in float32
_CLAMP = 3.0  # latents beyond it are bent back


class TinyBlock(nn.Module):
    """Three convolutions with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        parts = [(Convolution(width, width), nn.ReLU()) for _ in range(3)]
        self.conv = [layer for pair in parts for layer in pair][:-1]

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, width) to the same."""
        y = x
        for layer in self.conv:
            y = layer(y)
        return mx.maximum(x + y, 0)


class Upsample(nn.Module):
    """Nearest upsampling: each pixel four times."""

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, C) to (B, 2H, 2W, C)."""
        return upsample_nearest(x)


class TinyDecoder(nn.Module):
    """The decoder: one list of layers, numbered as diffusers numbers them."""

    def __init__(self, spec: TinyVaeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.layers = [Convolution(spec.latent_channels, spec.width), nn.ReLU()]
        for blocks in spec.blocks[:-1]:
            self.layers += [TinyBlock(spec.width) for _ in range(blocks)]
            self.layers += [Upsample(), Convolution(spec.width, spec.width, bias=False)]
        self.layers += [TinyBlock(spec.width) for _ in range(spec.blocks[-1])]
        self.layers += [Convolution(spec.width, spec.out_channels)]

    def __call__(self, latents: mx.array) -> mx.array:
        """(B, h, w, C) as the UNet sees them to (B, H, W, 3), about [0, 1]."""
        x = mx.tanh(latents / self.spec.scaling_factor / _CLAMP) * _CLAMP
        for layer in self.layers:
            x = layer(x)
        return x


def load_tiny(files: TinyVaeFiles) -> PreviewDecoder:
    """Load the decoder in float32, evaluated.

    Raises:
        CheckpointError: Its weights are damaged, or are not exactly those of its structure.
    """
    decoder = TinyDecoder(files.spec)
    converted = read_tiny_vae(files)
    watch().expect("load", sum(prod(tensor.shape) * _BYTES for tensor in converted.values()))
    place(decoder, converted, mx.float32, files.name)
    return partial(_pictures, decoder)


def _pictures(decoder: TinyDecoder, latents: mx.array) -> Floats:
    return np.clip(np.array(decoder(latents)), 0.0, 1.0)
