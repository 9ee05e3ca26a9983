"""The config.json that a T2I-Adapter's file lacks when it lies alone, told from its tensors.

The channels that its first layer takes tell how many pixels become channels, and whether the
picture is grey: 8² or 16² of them (XL), times 1 or 3. A file in the original naming numbers its
residual blocks through; every public one has four blocks. Source: TencentARC/T2I-Adapter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipa.errors import CheckpointError
from ipa.model.config import MOST_LAYERS, Config

from ..containers.checkpoint import Checkpoint, open_file
from ..tables import controlnet, t2i_adapter
from ..tables.families import CONTROLLED, family
from ..tables.layout import Shape

_FIRST: Mapping[int, tuple[int, int]] = {64: (8, 1), 192: (8, 3), 256: (16, 1), 768: (16, 3)}
"""(downscale_factor, in_channels) by the channels of the first layer."""
_XL = 16
_MATRICES = (2, 4)  # axes of a matrix or kernel
_ORIGINAL_BLOCKS = 4
# The first convolution of a residual block, as diffusers, light and full originals name it.
_NESTED = re.compile(r"body\.([0-9]{1,4})\.(?:resnets|body)\.([0-9]{1,4})\.block1\.weight")
_FLAT = re.compile(r"body\.([0-9]{1,4})\.block1\.weight")


def open_t2i_adapter(path: Path, config: Config | None = None) -> tuple[Config, Checkpoint]:
    """Open a T2I-Adapter from a lone file, with its config in diffusers' words.

    Args:
        path: A safetensors file, or one of torch.save.
        config: Its config.json; None tells it from the tensors.

    Raises:
        CheckpointError: It is damaged, no T2I-Adapter, or does not tell its structure.
    """
    checkpoint = open_file(path)
    found = family(checkpoint)
    if found != t2i_adapter.TITLE:
        is_controlnet = found in (controlnet.TITLE, CONTROLLED)
        raise CheckpointError(
            f"{checkpoint.where} is no {t2i_adapter.TITLE}",
            found=f"tensors of this kind: {found}",
            remedy="load it with load_controlnet"
            if is_controlnet
            else "use a T2I-Adapter for Stable Diffusion 1.5 or XL",
        )
    return detect_t2i_adapter(checkpoint) if config is None else config, checkpoint


def detect_t2i_adapter(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of a T2I-Adapter in any spelling, from its shapes.

    Raises:
        CheckpointError: It is none, or has not the structure of a public one.
    """
    shapes = {
        name.removeprefix(t2i_adapter.PREFIX): stored.shape for name, stored in checkpoint.items()
    }
    is_light = "body.0.out_conv.weight" in shapes
    levels, resnets, step = _counts(checkpoint, shapes)
    # Of each block what tells the width of its feature.
    last = "out_conv" if is_light else "resnets.0.block1" if not step else "block1"
    ends = [f"body.{level * (step or 1)}.{last}.weight" for level in range(levels)]
    widths = [_shape(checkpoint, shapes, name)[0] for name in ends]
    factor, pictures = _first(checkpoint, shapes, is_light=is_light)
    kind = "light_adapter" if is_light else "full_adapter"
    return {
        "_class_name": "T2IAdapter",
        "adapter_type": "full_adapter_xl" if factor == _XL and not is_light else kind,
        "channels": widths[:-1] if is_light else widths,
        "downscale_factor": factor,
        "in_channels": pictures,
        "num_res_blocks": resnets,
    }


def _counts(checkpoint: Checkpoint, shapes: Mapping[str, Shape]) -> tuple[int, int, int]:
    """Blocks, residual blocks in each, and the count that they are numbered through by, else 0."""
    nested = [match.groups() for match in map(_NESTED.fullmatch, shapes) if match]
    levels, resnets = (len({pair[place] for pair in nested}) for place in (0, 1))
    step = 0
    if not nested:
        total = sum(1 for name in shapes if _FLAT.fullmatch(name))
        resnets = step = total // _ORIGINAL_BLOCKS
        levels = _ORIGINAL_BLOCKS if step * _ORIGINAL_BLOCKS == total else 0
    if not 0 < levels <= MOST_LAYERS or not 0 < resnets <= MOST_LAYERS:
        raise CheckpointError(
            f"{checkpoint.where}: this T2I-Adapter is of no public structure",
            found=f"{len(shapes)} tensors",
            remedy="give its config.json, or download it again",
        )
    return levels, resnets, step


def _first(
    checkpoint: Checkpoint, shapes: Mapping[str, Shape], *, is_light: bool
) -> tuple[int, int]:
    name = "body.0.in_conv.weight" if is_light else "conv_in.weight"
    shape = _shape(checkpoint, shapes, name)
    # A kernel lies (out, height, width, in) in MLX.
    inputs = shape[-1] if checkpoint.converted else shape[1]
    if inputs not in _FIRST:
        raise CheckpointError(
            f"{checkpoint.where}: this T2I-Adapter is of no public structure",
            found=f"a first layer that takes {inputs} channels",
            remedy=f"give its config.json; public ones take {', '.join(map(str, _FIRST))}",
        )
    return _FIRST[inputs]


def _shape(checkpoint: Checkpoint, shapes: Mapping[str, Shape], name: str) -> Shape:
    shape = shapes.get(name, ())
    if len(shape) not in _MATRICES:
        raise CheckpointError(
            f"{checkpoint.where} is not a whole T2I-Adapter",
            found=f"{name} {shape}" if shape else f"no {name}",
            remedy="download it again",
        )
    return shape
