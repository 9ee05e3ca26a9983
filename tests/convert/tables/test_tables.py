"""The tables expect exactly what diffusers' and transformers' own modules have."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa_convert.tables import clip_text, clip_vision, unet, vae
from ipa_convert.tables.layout import Tensor
from oracle import models

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
SD15 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (CROSS, CROSS, CROSS, PLAIN),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD21 = SD15 | {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "upcast_attention": True,
}
# The blocks of SDXL, without its second conditioning.
# Latent consistency models, distilled from 1.5.
LCM = SD15 | {"time_cond_proj_dim": 256}
XL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": (PLAIN, CROSS, CROSS),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
}
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


def clip(width: int, layers: int, heads: int, intermediate: int, projection: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "projection_dim": projection,
    }


def meta(module: type, config: Any, **keywords: Any) -> tuple[dict[str, tuple[int, ...]], Any]:
    """Names and shapes of a module that takes no memory, and its config."""
    with torch.device("meta"):
        made = module(config) if config is not None else module(**keywords)
    return {k: tuple(v.shape) for k, v in made.state_dict().items()}, made.config


def agree(expected: dict[str, tuple[int, ...]], tensors: Iterable[Tensor]) -> None:
    listed = list(tensors)
    found = {tensor.name: tensor.shape for tensor in listed}
    assert len(found) == len(listed), "a name occurs twice"
    assert found == expected


def parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(map(prod, shapes.values()))


@pytest.mark.parametrize(
    ("config", "tensors", "weights"),
    [
        (SD15, 686, 859_520_964),
        (SD21, 686, 865_910_724),
        (XL, 1676, None),  # SDXL has 1680: four more in add_embedding
        (LCM, 687, 859_602_884),
        (models.UNET, None, None),
        (SD15 | {"in_channels": 9}, 686, None),
        (SD15 | {"layers_per_block": 1}, None, None),
    ],
)
def test_unet(config: dict[str, Any], tensors: int | None, weights: int | None) -> None:
    shapes, parsed = meta(UNet2DConditionModel, None, **config)
    assert tensors in (None, len(shapes))
    assert weights in (None, parameters(shapes))
    agree(shapes, unet.tensors(UNetSpec.from_config(parsed)))


@st.composite
def unets(draw: st.DrawFn) -> dict[str, Any]:
    levels = draw(st.integers(1, 3))

    def per_level(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(values, min_size=levels, max_size=levels)))

    return {
        "block_out_channels": per_level(st.sampled_from([8, 16, 24, 40])),
        "down_block_types": per_level(st.sampled_from([CROSS, PLAIN])),
        "up_block_types": per_level(st.sampled_from(["CrossAttnUpBlock2D", "UpBlock2D"])),
        "layers_per_block": per_level(st.integers(1, 3)),
        "transformer_layers_per_block": per_level(st.integers(1, 2)),
        "attention_head_dim": per_level(st.sampled_from([1, 2, 4])),
        "cross_attention_dim": draw(st.integers(1, 30)),
        "norm_num_groups": 4,
        "use_linear_projection": draw(st.booleans()),
        "in_channels": draw(st.integers(1, 9)),
        "out_channels": draw(st.integers(1, 8)),
    }


@settings(max_examples=40, deadline=None)
@given(unets())
def test_any_unet(config: dict[str, Any]) -> None:
    shapes, parsed = meta(UNet2DConditionModel, None, **config)
    agree(shapes, unet.tensors(UNetSpec.from_config(parsed)))


def test_vae() -> None:
    shapes, parsed = meta(AutoencoderKL, None, **SD_VAE)
    assert (len(shapes), parameters(shapes)) == (248, 83_653_863)
    agree(shapes, vae.tensors(VaeSpec.from_config(parsed)))


@st.composite
def vaes(draw: st.DrawFn) -> dict[str, Any]:
    levels = draw(st.integers(1, 4))
    widths = st.lists(st.sampled_from([4, 8, 12]), min_size=levels, max_size=levels)
    return {
        "block_out_channels": tuple(draw(widths)),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": draw(st.integers(1, 3)),
        "latent_channels": draw(st.integers(1, 16)),
        "norm_num_groups": 2,
        "mid_block_add_attention": draw(st.booleans()),
        "use_quant_conv": draw(st.booleans()),
        "use_post_quant_conv": draw(st.booleans()),
    }


@settings(max_examples=40, deadline=None)
@given(vaes())
def test_any_vae(config: dict[str, Any]) -> None:
    shapes, parsed = meta(AutoencoderKL, None, **config)
    agree(shapes, vae.tensors(VaeSpec.from_config(parsed)))


@pytest.mark.parametrize(
    ("config", "tensors", "weights"),
    [
        (clip(768, 12, 12, 3072, 768), 196, 123_060_480),
        (clip(1024, 23, 16, 4096, 512), 372, 340_387_840),
        (models.TEXT, None, None),
    ],
)
def test_text_encoder(config: dict[str, Any], tensors: int | None, weights: int | None) -> None:
    shapes, parsed = meta(CLIPTextModel, CLIPTextConfig(**config))
    assert tensors in (None, len(shapes))
    assert weights in (None, parameters(shapes))
    spec = ClipTextSpec.from_config(parsed.to_dict() | {"architectures": ["CLIPTextModel"]})
    # This transformers saves without the prefix that every public file has.
    agree({f"text_model.{name}": shape for name, shape in shapes.items()}, clip_text.tensors(spec))


def test_text_encoder_with_projection() -> None:
    config = CLIPTextConfig(**clip(1280, 32, 20, 5120, 1280))
    shapes, parsed = meta(CLIPTextModelWithProjection, config)
    assert (len(shapes), parameters(shapes)) == (517, 694_659_840)
    named = {"architectures": ["CLIPTextModelWithProjection"]}
    agree(shapes, clip_text.tensors(ClipTextSpec.from_config(parsed.to_dict() | named)))


@pytest.mark.parametrize(
    ("config", "tensors", "weights"),
    [
        (clip(1024, 24, 16, 4096, 768) | {"patch_size": 14}, 392, 303_966_208),
        (clip(1280, 32, 16, 5120, 1024) | {"patch_size": 14}, 520, 632_076_800),
        (clip(1664, 48, 16, 8192, 1280) | {"patch_size": 14}, 776, 1_844_907_264),
        (models.VISION, None, None),
        (models.VISION | {"num_channels": 5}, None, None),
    ],
)
def test_image_encoder(config: dict[str, Any], tensors: int | None, weights: int | None) -> None:
    shapes, parsed = meta(CLIPVisionModelWithProjection, CLIPVisionConfig(**config))
    assert tensors in (None, len(shapes))
    assert weights in (None, parameters(shapes))
    agree(shapes, clip_vision.tensors(ClipVisionSpec.from_config(parsed.to_dict())))
