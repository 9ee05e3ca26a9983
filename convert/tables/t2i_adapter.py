"""T2I-Adapters: diffusers' T2IAdapter, and the files of TencentARC/T2I-Adapter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ipa.model.t2i_adapter import NARROWING, AdapterBlock, T2IAdapterSpec

from .layout import Tensor
from .modules import convolution, pointwise
from .rules import Rename
from .spelling import Names
from .table import Table

TITLE = T2IAdapterSpec.title

PREFIX = "adapter."
"""The prefix of diffusers' names; the original ones have none."""

RENAMES = (Rename(f"{PREFIX}**", "**"),)

_RESNET = re.compile(r"body\.(\d+)\.resnets\.(\d+)\.(.+)")
_BLOCK = re.compile(r"body\.(\d+)\.(.+)")


def table(spec: T2IAdapterSpec) -> Table:
    """The table of a T2I-Adapter, also as its first authors spell it."""
    rows = tuple(tensors(spec))
    names = Names({_original(row.name.removeprefix(PREFIX), spec): row.name for row in rows})
    return Table(title=TITLE, tensors=rows, renames=RENAMES, aliases=(names,))


def tensors(spec: T2IAdapterSpec) -> Iterator[Tensor]:
    """Every tensor, as diffusers names and stores it."""
    if not spec.is_light:
        yield from convolution(f"{PREFIX}conv_in", spec.unshuffled, spec.channels[0])
    block_tensors = _light if spec.is_light else _full
    for number, block in enumerate(spec.blocks):
        yield from block_tensors(f"{PREFIX}body.{number}", block, spec.resnets)


def _full(path: str, block: AdapterBlock, resnets: int) -> Iterator[Tensor]:
    """Tensors of diffusers' `AdapterBlock`; the first layer is there only where channels change."""
    if block.inputs != block.outputs:
        yield from pointwise(f"{path}.in_conv", block.inputs, block.outputs)
    for j in range(resnets):
        yield from convolution(f"{path}.resnets.{j}.block1", block.outputs, block.outputs)
        yield from pointwise(f"{path}.resnets.{j}.block2", block.outputs, block.outputs)


def _light(path: str, block: AdapterBlock, resnets: int) -> Iterator[Tensor]:
    """Tensors of diffusers' `LightAdapterBlock`."""
    width = block.outputs // NARROWING
    yield from pointwise(f"{path}.in_conv", block.inputs, width)
    for j in range(resnets):
        yield from convolution(f"{path}.resnets.{j}.block1", width, width)
        yield from convolution(f"{path}.resnets.{j}.block2", width, width)
    yield from pointwise(f"{path}.out_conv", width, block.outputs)


def _original(name: str, spec: T2IAdapterSpec) -> str:
    """Renames from one list of all residual blocks; a light adapter has them block by block."""
    if spec.is_light:
        return name.replace(".resnets.", ".body.")
    if match := _RESNET.fullmatch(name):
        return f"body.{int(match[1]) * spec.resnets + int(match[2])}.{match[3]}"
    if match := _BLOCK.fullmatch(name):
        return f"body.{int(match[1]) * spec.resnets}.{match[2]}"
    return name
