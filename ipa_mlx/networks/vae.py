"""The autoencoder (diffusers' AutoencoderKL): pixels to latents and back."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from ipa.model.vae import VaeSpec

from .attention import SelfAttention
from .layers import Convolution, upsample_nearest
from .norms import GroupNorm
from .unet_blocks import ResnetBlock

_EPS = 1e-6  # of every group norm in the autoencoder
_LOG_VARIANCE = (-30.0, 20.0)  # to which diffusers clips the posterior's


class VaeAttention(SelfAttention):
    """Self-attention over all pixels, one head, with its norm and residual inside."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__(width, heads=1, bias=True)
        self.group_norm = GroupNorm(groups, width, _EPS)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, C) to the same."""
        batch, height, width, channels = x.shape
        y = self.group_norm(x).reshape(batch, height * width, channels)
        return x + super().__call__(y).reshape(x.shape)


class VaeMidBlock(nn.Module):
    """The coarsest level: resnet, attention, resnet."""

    def __init__(self, width: int, spec: VaeSpec) -> None:
        super().__init__()
        self.resnets = [ResnetBlock(width, width, spec.norm_groups, _EPS) for _ in range(2)]
        self.attentions = [VaeAttention(width, spec.norm_groups)] if spec.mid_attention else []

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, C) to the same."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class VaeDownBlock(nn.Module):
    """One level of the encoder."""

    def __init__(self, inputs: int, outputs: int, spec: VaeSpec, *, downsample: bool) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * (spec.layers - 1)]
        self.resnets = [ResnetBlock(i, outputs, spec.norm_groups, _EPS) for i in widths]
        if downsample:
            self.downsample = nn.Conv2d(outputs, outputs, 3, stride=2)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, inputs) to (B, H/2, W/2, outputs), or the same size without downsampling."""
        for resnet in self.resnets:
            x = resnet(x)
        if "downsample" in self:
            # Zeros at the right and the bottom only, unlike the UNet's.
            x = self.downsample(mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]))
        return x


class VaeUpBlock(nn.Module):
    """One level of the decoder."""

    def __init__(self, inputs: int, outputs: int, spec: VaeSpec, *, upsample: bool) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * spec.layers]
        self.resnets = [ResnetBlock(i, outputs, spec.norm_groups, _EPS) for i in widths]
        if upsample:
            self.upsample = Convolution(outputs, outputs)

    def layers(self) -> list[Callable[[mx.array], mx.array]]:
        """The level's layers: (B, H, W, inputs) to (B, 2H, 2W, outputs), or the same size.

        For the decoder to call one by one: a call of the block would hold its input to the end.
        """
        return [*self.resnets, *([self._enlarged] if "upsample" in self else [])]

    def _enlarged(self, x: mx.array) -> mx.array:
        return self.upsample(upsample_nearest(x))


class VaeEncoder(nn.Module):
    """Pixels to the moments of the latents."""

    def __init__(self, spec: VaeSpec) -> None:
        super().__init__()
        widths = spec.channels
        self.conv_in = Convolution(spec.in_channels, widths[0])
        self.down_blocks = [
            VaeDownBlock(widths[max(i - 1, 0)], width, spec, downsample=i < len(widths) - 1)
            for i, width in enumerate(widths)
        ]
        self.mid_block = VaeMidBlock(widths[-1], spec)
        self.conv_norm_out = GroupNorm(spec.norm_groups, widths[-1], _EPS)
        self.conv_out = Convolution(widths[-1], 2 * spec.latent_channels)

    def __call__(self, pixels: mx.array) -> mx.array:
        """(B, H, W, 3) in [-1, 1] to (B, H/f, W/f, 2 · latent channels)."""
        x = self.conv_in(pixels)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out.activated(self.mid_block(x)))


class VaeDecoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, spec: VaeSpec) -> None:
        super().__init__()
        widths = spec.channels[::-1]
        self.conv_in = Convolution(spec.latent_channels, widths[0])
        self.mid_block = VaeMidBlock(widths[0], spec)
        self.up_blocks = [
            VaeUpBlock(widths[max(i - 1, 0)], width, spec, upsample=i < len(widths) - 1)
            for i, width in enumerate(widths)
        ]
        self.conv_norm_out = GroupNorm(spec.norm_groups, widths[-1], _EPS)
        self.conv_out = Convolution(widths[-1], spec.out_channels)

    def __call__(self, latents: mx.array) -> mx.array:
        """(B, h, w, C) to (B, h·f, w·f, 3)."""
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            for layer in block.layers():
                x = layer(x)
        return self.conv_out(self.conv_norm_out.activated(x))


class Vae(nn.Module):
    """Encoder and decoder with the scaling between them and the UNet."""

    def __init__(self, spec: VaeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder, self.decoder = VaeEncoder(spec), VaeDecoder(spec)
        if spec.quant_conv:
            self.quant_conv = nn.Linear(2 * spec.latent_channels, 2 * spec.latent_channels)
        if spec.post_quant_conv:
            self.post_quant_conv = nn.Linear(spec.latent_channels, spec.latent_channels)

    def encode(self, pixels: mx.array) -> tuple[mx.array, mx.array]:
        """(B, H, W, 3) in [-1, 1] to the posterior's mean and standard deviation, scaled for the
        UNet: (B, h, w, C) in float32."""
        return self.posterior(self.moments(pixels))

    def moments(self, pixels: mx.array) -> mx.array:
        """(B, H, W, 3) in [-1, 1] to mean and log variance side by side, (B, h, w, 2C), float32."""
        return self.quantized(self.encoder(pixels))

    def quantized(self, encoded: mx.array) -> mx.array:
        """What the encoder gives to the moments."""
        if "quant_conv" in self:
            encoded = self.quant_conv(encoded)
        return encoded.astype(mx.float32)

    def posterior(self, moments: mx.array) -> tuple[mx.array, mx.array]:
        """The moments as mean and standard deviation, scaled for the UNet."""
        mean, logarithm = mx.split(moments, 2, axis=-1)
        deviation = mx.exp(0.5 * mx.clip(logarithm, *_LOG_VARIANCE))
        return mean * self.spec.scaling_factor, deviation * self.spec.scaling_factor

    def decode(self, latents: mx.array) -> mx.array:
        """(B, h, w, C) as the UNet sees them to (B, H, W, 3), about [-1, 1]."""
        return self.decoder(self.unscaled(latents))

    def unscaled(self, latents: mx.array) -> mx.array:
        """What the UNet sees to what the decoder takes."""
        latents = latents / self.spec.scaling_factor
        return self.post_quant_conv(latents) if "post_quant_conv" in self else latents
