"""Tiny random ControlNets of every public structure, and the original naming by other means."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch
from diffusers import ControlNetModel

from oracle import models

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
_SD15: dict[str, Any] = {
    "block_out_channels": (8, 16, 24, 24),
    "down_block_types": (CROSS, CROSS, CROSS, PLAIN),
    "cross_attention_dim": 20,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "conditioning_embedding_out_channels": (4, 6, 8, 10),
}
_SDXL = _SD15 | {
    "block_out_channels": (8, 16, 24),
    "down_block_types": (PLAIN, CROSS, CROSS),
    "attention_head_dim": (1, 2, 4),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 34,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "SD1.5": _SD15,
    "SD2": _SD15 | {"attention_head_dim": (1, 2, 4, 4), "use_linear_projection": True},
    "SDXL": _SDXL,
    "SDXL mid": _SDXL | {"transformer_layers_per_block": (0, 0, 1)},
    "SDXL small": _SDXL
    | {"down_block_types": (PLAIN,) * 3, "transformer_layers_per_block": (0, 0, 0)},
}
_TRUE_SD15: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
_TRUE_SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": (PLAIN, CROSS, CROSS),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TRUE: dict[str, dict[str, Any]] = {
    "SD1.5": _TRUE_SD15,
    "SD2": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "SDXL": _TRUE_SDXL,
    "SDXL mid": _TRUE_SDXL | {"transformer_layers_per_block": (0, 0, 1)},
    "SDXL small": _TRUE_SDXL
    | {"down_block_types": (PLAIN,) * 3, "transformer_layers_per_block": (0, 0, 0)},
}
"""The public ones at their sizes; diffusers' defaults are those of SD1.5."""

# Of networks with two layers a block: three numbers of input_blocks each, the third downsamples.
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
}


def weights(name: str) -> dict[str, torch.Tensor]:
    """A tiny ControlNet's tensors, all of them distinct, zero convolutions too."""
    return dict(_random(name).state_dict())


def built(module: Any, **config: Any) -> torch.nn.Module:
    """A network that takes no memory."""
    return _built(module, tuple(config.items()))


@cache
def _random(name: str) -> torch.nn.Module:
    return models.randomize(ControlNetModel(**CONFIGS[name]), seed=3)


@cache
def _built(module: Any, config: tuple[tuple[str, Any], ...]) -> torch.nn.Module:
    with torch.device("meta"):
        return module(**dict(config))


def original_name(name: str) -> str:
    """diffusers' name in the words of lllyasviel/ControlNet, read and not looked up."""
    module, _, last = name.rpartition(".")
    if module in _ENDS:
        return f"{_ENDS[module]}.{last}"
    if match := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d)", module):
        return f"input_hint_block.{2 * int(match[1]) + 2}.{last}"
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)", module):
        return f"zero_convs.{match[1]}.0.{last}"
    if match := re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.conv", module):
        return f"input_blocks.{3 * int(match[1]) + 3}.0.op.{last}"
    match = re.fullmatch(r"(down|mid)_blocks?\.(?:(\d)\.)?(resnets|attentions)\.(\d)\.(.+)", module)
    assert match, name
    half, block, kind, number, inner = match.groups()
    is_attention = kind == "attentions"
    inner = inner if is_attention else _RESNET[inner]
    if half == "mid":
        return f"middle_block.{1 if is_attention else 2 * int(number)}.{inner}.{last}"
    return f"input_blocks.{3 * int(block) + int(number) + 1}.{int(is_attention)}.{inner}.{last}"


def original(tensors: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The same values under the original names."""
    return {prefix + original_name(name): value for name, value in tensors.items()}


def base_model() -> dict[str, torch.Tensor]:
    """What a whole checkpoint of the first release holds beside its ControlNet, in small."""
    return {
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(8, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(
            8, 20
        ),
        "first_stage_model.encoder.conv_in.weight": torch.ones(8, 3, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "betas": torch.ones(10),
        "alphas_cumprod": torch.ones(10),
        "posterior_mean_coef2": torch.ones(10),
    }
