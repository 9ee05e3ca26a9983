"""The UNet of Stable Diffusion: diffusers' UNet2DConditionModel.

A ControlNet has the half of it that goes down, so that those tensors are listed apart.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipa.model.left_out import SAVED_ADAPTER
from ipa.model.unet import DownSpec, UNetSpec

from . import ldm
from .layout import Tensor
from .modules import convolution, linear, norm, pointwise, resnet
from .rules import Drop, Rename
from .spelling import Names
from .table import Table

TITLE = "Stable Diffusion UNet"

DOWN_RENAMES = (
    Rename("**.to_out.0.*", "**.to_out.*"),
    Rename("**.ff.net.0.proj.*", "**.ff.proj_in.*"),
    Rename("**.ff.net.2.*", "**.ff.proj_out.*"),
    Rename("**.downsamplers.0.conv.*", "**.downsample.*"),
)
RENAMES = (*DOWN_RENAMES, Rename("**.upsamplers.0.conv.*", "**.upsample.*"))

_DROPS = tuple(Drop(pattern, reason) for pattern, reason in SAVED_ADAPTER.items())

# Of a UNet that was saved alone, but as it lies in a single file.
PREFIX = Rename("model.diffusion_model.**", "**")


def table(spec: UNetSpec) -> Table:
    """The table of a UNet; single files and ComfyUI spell it as its first authors did."""
    rows = tuple(tensors(spec))
    names = ldm.unet_names((row.name for row in rows), spec)
    return Table(
        title=TITLE,
        tensors=rows,
        renames=RENAMES,
        aliases=(PREFIX, Names(names)),
        drops=_DROPS,
    )


def tensors(spec: UNetSpec) -> Iterator[Tensor]:
    """Every tensor, as diffusers names and stores it."""
    yield from down_tensors(spec)
    for block in range(len(spec.channels)):
        yield from _up(spec, block)
    yield from norm("conv_norm_out", spec.channels[0])
    yield from convolution("conv_out", spec.channels[0], spec.out_channels)


def down_tensors(spec: DownSpec) -> Iterator[Tensor]:
    """Tensors of the half that goes down: embeddings, blocks and the middle."""
    first, last = spec.channels[0], spec.channels[-1]
    yield from convolution("conv_in", spec.in_channels, first)
    yield from linear("time_embedding.linear_1", first, spec.time_width)
    yield from linear("time_embedding.linear_2", spec.time_width, spec.time_width)
    if spec.guidance_width is not None:
        yield from linear("time_embedding.cond_proj", spec.guidance_width, first, bias=False)
    if spec.addition is not None:
        yield from linear("add_embedding.linear_1", spec.addition.width, spec.time_width)
        yield from linear("add_embedding.linear_2", spec.time_width, spec.time_width)
    for level in range(len(spec.channels)):
        yield from _down(spec, level)
    for i in range(2):
        yield from resnet(f"mid_block.resnets.{i}", last, last, spec.time_width)
    yield from _transformer("mid_block.attentions.0", spec, len(spec.channels) - 1)


def _down(spec: DownSpec, level: int) -> Iterator[Tensor]:
    path, width = f"down_blocks.{level}", spec.channels[level]
    above = spec.channels[max(level - 1, 0)]
    for i in range(spec.layers[level]):
        yield from resnet(f"{path}.resnets.{i}", width if i else above, width, spec.time_width)
        if spec.down_attention[level]:
            yield from _transformer(f"{path}.attentions.{i}", spec, level)
    if level < len(spec.channels) - 1:
        yield from convolution(f"{path}.downsamplers.0.conv", width, width)


def _up(spec: UNetSpec, block: int) -> Iterator[Tensor]:
    """Tensors of an up block: each resnet takes a skip, whose channels add up with its input's."""
    levels = len(spec.channels)
    level = levels - 1 - block
    path, width = f"up_blocks.{block}", spec.channels[level]
    below, above = spec.channels[min(level + 1, levels - 1)], spec.channels[max(level - 1, 0)]
    final = spec.layers[level]
    for i in range(final + 1):
        inputs = (width if i else below) + (above if i == final else width)
        yield from resnet(f"{path}.resnets.{i}", inputs, width, spec.time_width)
        if spec.up_attention[block]:
            yield from _transformer(f"{path}.attentions.{i}", spec, level)
    if level > 0:
        yield from convolution(f"{path}.upsamplers.0.conv", width, width)


def _transformer(path: str, spec: DownSpec, level: int) -> Iterator[Tensor]:
    """Tensors of diffusers' `Transformer2DModel`; SD1.x has 1×1 convolutions, SD2 matrices."""
    width = spec.channels[level]
    projection = linear if spec.linear_projection else pointwise
    yield from norm(f"{path}.norm", width)
    yield from projection(f"{path}.proj_in", width, width)
    for layer in range(spec.transformer_layers[level]):
        block = f"{path}.transformer_blocks.{layer}"
        yield from norm(f"{block}.norm1", width)
        yield from _attention(f"{block}.attn1", width, width)
        yield from norm(f"{block}.norm2", width)
        yield from _attention(f"{block}.attn2", width, spec.context_width)
        yield from norm(f"{block}.norm3", width)
        yield from linear(f"{block}.ff.net.0.proj", width, 8 * width)
        yield from linear(f"{block}.ff.net.2", 4 * width, width)
    yield from projection(f"{path}.proj_out", width, width)


def _attention(path: str, width: int, context: int) -> Iterator[Tensor]:
    yield from linear(f"{path}.to_q", width, width, bias=False)
    yield from linear(f"{path}.to_k", context, width, bias=False)
    yield from linear(f"{path}.to_v", context, width, bias=False)
    yield from linear(f"{path}.to_out.0", width, width)
