"""The config.json that a ControlNet's file lacks when it lies alone, told from its tensors.

Public ControlNets copy Stable Diffusion 1.5, 2.1 or XL. Which one, how many transformers are left
of XL, and what the first convolutions take is in the shapes. What is not: heads (each base has its
own), and whether the results are averaged over the picture, as those of shuffle are. Sources:
lllyasviel/sd-controlnet-canny, thibaud/controlnet-sd21-canny-diffusers and the diffusers/
controlnet-canny-sdxl-1.0 family; the smaller two of that follow from their numbers of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ipa.errors import CheckpointError
from ipa.model.config import Config
from ipa.model.controlnet import ControlNetSpec

from ..containers.checkpoint import Checkpoint, open_file
from ..containers.stored import Stored
from ..tables import controlnet, t2i_adapter
from ..tables.families import CONTROLLED, family
from ..tables.layout import Shape
from ..tables.rules import Rename

_CROSS, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
_COMMON: Config = {
    "_class_name": "ControlNetModel",
    "act_fn": "silu",
    "addition_embed_type": None,
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": None,
    "class_embed_type": None,
    "conditioning_channels": 3,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "downsample_padding": 1,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "global_pool_conditions": False,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_time_scale_shift": "default",
}
_SD15: Config = {
    **_COMMON,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": [_CROSS, _CROSS, _CROSS, _PLAIN],
    "transformer_layers_per_block": 1,
    "upcast_attention": False,
    "use_linear_projection": False,
}
_SD2: Config = {
    **_SD15,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "upcast_attention": True,  # of 2.1; it only adds precision where a model does without
    "use_linear_projection": True,
}
_SDXL: Config = {
    **_COMMON,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": [_PLAIN, _CROSS, _CROSS],
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": [1, 2, 10],
    "upcast_attention": False,
    "use_linear_projection": True,
}
_BASES: Mapping[int, Config] = {768: _SD15, 1024: _SD2, 2048: _SDXL}
_ADDITIONS = ("add_embedding.linear_1.weight", "label_emb.0.0.weight")
_EMBEDDING = "controlnet_cond_embedding"
_CONVERTED_EMBEDDING = Rename("conditioning_embedding.**", f"{_EMBEDDING}.**")


def open_controlnet(
    path: Path, config: Config | None = None, *, global_pool_conditions: bool | None = None
) -> tuple[Config, Checkpoint]:
    """Open a ControlNet from a lone file, with its config in diffusers' words.

    Args:
        path: A safetensors file, or one of torch.save.
        config: Its config.json; None tells it from the tensors, see `detect`.
        global_pool_conditions: Whether the results are averaged over the picture, which no tensor
            tells: True for shuffle. None takes the config's word, and False where there is none.

    Raises:
        CheckpointError: It is damaged, no ControlNet, or of a kind that is not supported.
    """
    checkpoint = open_file(path)
    require_controlnet(checkpoint)
    if config is None:
        return detect(checkpoint, global_pool_conditions=bool(global_pool_conditions)), checkpoint
    if global_pool_conditions is not None:
        config = {**config, "global_pool_conditions": global_pool_conditions}
    return config, checkpoint


def require_controlnet(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless it is a plain ControlNet, or a whole model with one in it."""
    found = family(checkpoint)
    if found not in (controlnet.TITLE, CONTROLLED):
        raise CheckpointError(
            f"{checkpoint.where} is not a plain {controlnet.TITLE}",
            found=f"tensors of this kind: {found}",
            remedy="load it with load_t2i_adapter"
            if found == t2i_adapter.TITLE
            else "use a ControlNet for Stable Diffusion 1.5, 2.1 or XL",
        )


def detect(checkpoint: Checkpoint, *, global_pool_conditions: bool = False) -> dict[str, Any]:
    """The config of a ControlNet in any spelling, from its shapes.

    Args:
        checkpoint: Its tensors.
        global_pool_conditions: What no tensor tells, see `open_controlnet`.

    Raises:
        CheckpointError: It is none, or has not the structure of a known base.
    """
    base = _base(checkpoint)
    shapes = _canonical_shapes(checkpoint, ControlNetSpec.from_config(base))
    first = _kernel(checkpoint, shapes, f"{_EMBEDDING}.conv_in.weight")
    return {
        **base,
        **_attention(base, shapes),
        "in_channels": _kernel(checkpoint, shapes, "conv_in.weight")[1],
        "conditioning_channels": first[1],
        "conditioning_embedding_out_channels": [first[0], *_inner_widths(checkpoint, shapes)],
        "global_pool_conditions": global_pool_conditions,
    }


def _base(checkpoint: Checkpoint) -> Config:
    """The config of the base model that a ControlNet copies."""
    tensors = dict(_own_tensors(checkpoint))
    if any(name in tensors for name in _ADDITIONS):
        return _SDXL
    keys = (t.shape for name, t in tensors.items() if name.endswith(".attn2.to_k.weight"))
    width = next((shape[-1] for shape in keys if shape), 0)
    if width not in _BASES:
        raise CheckpointError(
            f"{checkpoint.where}: this ControlNet is for a base model that is not known",
            found=f"context width {width}" if width else "no cross-attention",
            remedy="give its config.json, or use one for Stable Diffusion 1.5, 2.1 or XL",
        )
    return _BASES[width]


def _own_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Stored]]:
    """The ControlNet's own tensors, without the prefix that they may have beside a base model."""
    for name, stored in checkpoint.items():
        if not any(drop.matches(name) for drop in controlnet.DROPS):
            yield controlnet.PREFIX.apply(name), stored


def _canonical_shapes(checkpoint: Checkpoint, spec: ControlNetSpec) -> dict[str, Shape]:
    """PyTorch's shapes by diffusers' names, as far as a ControlNet of this base has them."""
    if checkpoint.converted:
        return {
            _CONVERTED_EMBEDDING.apply(name): _as_in_pytorch(stored.shape)
            for name, stored in checkpoint.items()
        }
    table = controlnet.table(spec)
    return {
        canonical: view.shape
        for name, stored in _own_tensors(checkpoint)
        for canonical, view in table.canonical(name, stored)
    }


def _as_in_pytorch(shape: Shape) -> Shape:
    """A shape as PyTorch has it: a kernel lies (out, height, width, in) in MLX."""
    return (shape[0], shape[3], *shape[1:3]) if len(shape) == 4 else shape


def _kernel(checkpoint: Checkpoint, shapes: Mapping[str, Shape], name: str) -> Shape:
    shape = shapes.get(name, ())
    if len(shape) != 4:
        raise CheckpointError(
            f"{checkpoint.where} is not a whole ControlNet",
            found=f"{name} {shape}" if shape else f"no {name}",
            remedy="download it again",
        )
    return shape


def _inner_widths(checkpoint: Checkpoint, shapes: Mapping[str, Shape]) -> Iterator[int]:
    """The widths inside the conditioning embedding: every second inner layer widens it."""
    number = 1
    while (name := f"{_EMBEDDING}.blocks.{number}.weight") in shapes:
        yield _kernel(checkpoint, shapes, name)[0]
        number += 2


def _attention(base: Config, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Which levels attend, and with how many transformers: SDXL's smaller sizes have fewer."""
    levels = range(len(base["block_out_channels"]))
    attends = [f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in levels]
    counts = [_transformers(f"down_blocks.{level}.attentions.0", shapes) for level in levels]
    counts[-1] = _transformers("mid_block.attentions.0", shapes)
    kinds = [_CROSS if attend else _PLAIN for attend in attends]
    spec = ControlNetSpec.from_config(base)
    whole = [
        n if a else 0 for n, a in zip(spec.transformer_layers, spec.down_attention, strict=True)
    ]
    whole[-1] = spec.transformer_layers[-1]
    if (kinds, counts) == (base["down_block_types"], whole):
        return {}
    return {"down_block_types": kinds, "transformer_layers_per_block": counts}


def _transformers(path: str, shapes: Mapping[str, Shape]) -> int:
    count = 0
    while f"{path}.transformer_blocks.{count}.norm1.weight" in shapes:
        count += 1
    return count
