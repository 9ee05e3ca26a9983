"""The autoencoder: diffusers' AutoencoderKL."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.model.vae import VaeSpec

from . import ldm
from .layout import Layout, Tensor
from .modules import convolution, norm, pointwise, resnet
from .rules import Drop, Rename
from .spelling import Names
from .table import Table

TITLE = "VAE"

RENAMES = (
    Rename("**.to_out.0.*", "**.to_out.*"),
    Rename("**.downsamplers.0.conv.*", "**.downsample.*"),
    Rename("**.upsamplers.0.conv.*", "**.upsample.*"),
)

# Of an autoencoder that was saved alone, but as it lies in a single file.
PREFIXES = (Rename("first_stage_model.**", "**"), Rename("vae.**", "**"))

# diffusers before 0.17
ALIASES = (
    Rename("*.mid_block.attentions.0.query.*", "*.mid_block.attentions.0.to_q.*"),
    Rename("*.mid_block.attentions.0.key.*", "*.mid_block.attentions.0.to_k.*"),
    Rename("*.mid_block.attentions.0.value.*", "*.mid_block.attentions.0.to_v.*"),
    Rename("*.mid_block.attentions.0.proj_attn.*", "*.mid_block.attentions.0.to_out.0.*"),
)

# Autoencoders of diffusers from 0.17 on that its script of 2023 wrote in the original's names: the
# script knew the older names of their attention alone.
HALF_RENAMED = (
    *(Rename(f"*.mid.attn_1.to_{part}.*", f"*.mid.attn_1.{part}.*") for part in "qkv"),
    Rename("*.mid.attn_1.to_out.0.*", "*.mid.attn_1.proj_out.*"),
)

DROPS = (
    Drop("loss.**", "the critic of the autoencoder's training"),
    Drop("model_ema.**", "averages of the training, which repeat the weights"),
)


def table(spec: VaeSpec) -> Table:
    """The table of an autoencoder; single files and ComfyUI spell it as its first authors did."""
    rows = tuple(tensors(spec))
    names = Names(ldm.vae_names((row.name for row in rows), spec))
    return Table(
        title=TITLE,
        tensors=rows,
        renames=RENAMES,
        aliases=(*PREFIXES, *ALIASES, *HALF_RENAMED, names),
        drops=DROPS,
    )


def tensors(spec: VaeSpec) -> Iterator[Tensor]:
    """Every tensor, as diffusers names and stores it."""
    moments = 2 * spec.latent_channels  # mean and log variance
    yield from _encoder(spec, moments)
    if spec.quant_conv:
        yield from pointwise("quant_conv", moments, moments)
    if spec.post_quant_conv:
        yield from pointwise("post_quant_conv", spec.latent_channels, spec.latent_channels)
    yield from _decoder(spec)


def _encoder(spec: VaeSpec, moments: int) -> Iterator[Tensor]:
    widths = spec.channels
    yield from convolution("encoder.conv_in", spec.in_channels, widths[0])
    for level, width in enumerate(widths):
        path, above = f"encoder.down_blocks.{level}", widths[max(level - 1, 0)]
        for i in range(spec.layers):
            yield from resnet(f"{path}.resnets.{i}", width if i else above, width)
        if level < len(widths) - 1:
            yield from convolution(f"{path}.downsamplers.0.conv", width, width)
    yield from _middle("encoder.mid_block", spec)
    yield from norm("encoder.conv_norm_out", widths[-1])
    yield from convolution("encoder.conv_out", widths[-1], moments)


def _decoder(spec: VaeSpec) -> Iterator[Tensor]:
    widths = spec.channels[::-1]
    yield from convolution("decoder.conv_in", spec.latent_channels, widths[0])
    yield from _middle("decoder.mid_block", spec)
    for block, width in enumerate(widths):
        path, below = f"decoder.up_blocks.{block}", widths[max(block - 1, 0)]
        for i in range(spec.layers + 1):
            yield from resnet(f"{path}.resnets.{i}", width if i else below, width)
        if block < len(widths) - 1:
            yield from convolution(f"{path}.upsamplers.0.conv", width, width)
    yield from norm("decoder.conv_norm_out", widths[-1])
    yield from convolution("decoder.conv_out", widths[-1], spec.out_channels)


def _middle(path: str, spec: VaeSpec) -> Iterator[Tensor]:
    width = spec.channels[-1]
    for i in range(2):
        yield from resnet(f"{path}.resnets.{i}", width, width)
    if spec.mid_attention:
        attention = f"{path}.attentions.0"
        yield from norm(f"{attention}.group_norm", width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            # Matrices; some files keep the 1×1 convolutions of the original autoencoder.
            yield Tensor(f"{attention}.{part}.weight", (width, width), Layout.POINTWISE)
            yield Tensor(f"{attention}.{part}.bias", (width,))
