"""Arithmetic counted from shapes: torch's own counter on diffusers' and transformers' modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipa.bench import arithmetic
from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec

SMALL: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 48,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
XL: dict[str, Any] = SMALL | {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 40 + 6 * 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 2,
    "norm_num_groups": 8,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "projection_dim": 24,
}


def counted(run: Callable[[], object]) -> int:
    """What torch counts; a fused attention on a CPU would go uncounted."""
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize(("config", "rows"), [(SMALL, 2), (SMALL, 1), (XL, 2)])
@pytest.mark.parametrize("latents", [(16, 16), (12, 20), (7, 9)])
def test_a_step(config: Mapping[str, Any], rows: int, latents: tuple[int, int]) -> None:
    unet = UNet2DConditionModel(**config)
    spec = UNetSpec.from_config(config)
    added = {"text_embeds": torch.zeros(rows, 40), "time_ids": torch.zeros(rows, 6)}
    found = counted(
        lambda: unet(
            torch.zeros(rows, 4, *latents), 5, torch.zeros(rows, 77, 48), added_cond_kwargs=added
        )
    )
    text = arithmetic.condition(spec, rows, [77])  # diffusers computes them in every step
    assert arithmetic.step(spec, latents, rows) + text == found


def test_image_prompts_add_their_attention_alone() -> None:
    spec = UNetSpec.from_config(SMALL)
    plain = arithmetic.step(spec, (16, 16), 2)
    both = arithmetic.step(spec, (16, 16), 2, (4, 16))
    queries = {32: 5 * 256, 64: 5 * 64 + 16}  # two on the way down, three up; one in the middle
    sites = sum(width * count for width, count in queries.items())
    assert both - plain == 2 * 4 * (4 + 16) * sites


def test_the_autoencoder() -> None:
    vae, spec = AutoencoderKL(**VAE), VaeSpec.from_config(VAE)
    latents, pixels = torch.zeros(1, 4, 6, 10), torch.zeros(1, 3, 24, 40)
    assert arithmetic.decode(spec, (6, 10)) == counted(lambda: vae.decode(latents))
    assert arithmetic.encode(spec, (6, 10)) == counted(lambda: vae.encode(pixels))


def test_a_text_tower() -> None:
    config = TOWER | {"vocab_size": 60, "architectures": ["CLIPTextModelWithProjection"]}
    tower = CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()
    ids = torch.zeros(1, 77, dtype=torch.long)
    found = counted(lambda: tower(ids))
    assert arithmetic._text(ClipTextSpec.from_config(config)) == found


def test_an_image_encoder_and_its_projectors() -> None:
    config = TOWER | {"image_size": 28, "patch_size": 7}
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**config)).eval()
    spec = ClipVisionSpec.from_config(config)
    base = AdapterSpec(
        projector="linear", feature="embedding", feature_width=24, tokens=4, context_width=48
    )
    plus = AdapterSpec(
        projector="resampler",
        feature="states",
        feature_width=32,
        tokens=6,
        context_width=48,
        width=40,
        layers=4,
        heads=2,
    )
    pixels = torch.zeros(2, 3, 28, 28)
    assert arithmetic.image(base, spec, 2) == counted(lambda: tower(pixels))
    layer = counted(lambda: tower.vision_model.encoder.layers[0](torch.zeros(3, 17, 32), None))
    head = 2 * 3 * 32 * 24
    whole = counted(lambda: tower(torch.zeros(3, 3, 28, 28)))
    assert arithmetic.image(plus, spec, 2) == whole - layer - head
    linear = ImageProjection(24, 48, 4)
    assert arithmetic.projector(base, 17) == counted(lambda: linear(torch.zeros(1, 24)))
    resampler = IPAdapterPlusImageProjection(
        embed_dims=32, output_dims=48, hidden_dims=40, heads=2, num_queries=6, depth=4
    )
    assert arithmetic.projector(plus, 17) == counted(lambda: resampler(torch.zeros(1, 17, 32)))


def test_stable_diffusion_is_known() -> None:
    """Its published size: 803 GFLOP a row at 64² latents."""
    from ipa.bench.public import open_base

    spec = open_base("sd15").unet
    whole = arithmetic.step(spec, (64, 64), 1) + arithmetic.condition(spec, 1, [77])
    assert round(whole / 1e9) == 803
