"""Names and shapes that the readers know, so that mutants reach what is behind them."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

Shapes = Mapping[str, tuple[int, ...]]

_SITE = {"ip_adapter.1.to_k_ip.weight": (4, 6), "ip_adapter.1.to_v_ip.weight": (4, 6)}
_NORM = "image_proj.layers.0"
KNOWN: Mapping[str, Shapes] = {
    "linear": {
        "image_proj.proj.weight": (24, 5),
        "image_proj.proj.bias": (24,),
        "image_proj.norm.weight": (6,),
        "image_proj.norm.bias": (6,),
        **_SITE,
    },
    "mlp": {
        "image_proj.proj.0.weight": (5, 5),
        "image_proj.proj.0.bias": (5,),
        "image_proj.proj.2.weight": (6, 5),
        "image_proj.proj.2.bias": (6,),
        "image_proj.proj.3.weight": (6,),
        "image_proj.proj.3.bias": (6,),
        **_SITE,
    },
    "resampler": {
        "image_proj.latents": (1, 2, 3),
        "image_proj.proj_in.weight": (3, 5),
        "image_proj.proj_in.bias": (3,),
        "image_proj.proj_out.weight": (6, 3),
        "image_proj.proj_out.bias": (6,),
        "image_proj.norm_out.weight": (6,),
        "image_proj.norm_out.bias": (6,),
        f"{_NORM}.0.norm1.weight": (3,),
        f"{_NORM}.0.norm2.weight": (3,),
        f"{_NORM}.0.to_q.weight": (64, 3),
        f"{_NORM}.0.to_kv.weight": (128, 3),
        f"{_NORM}.0.to_out.weight": (3, 64),
        f"{_NORM}.1.0.weight": (3,),
        f"{_NORM}.1.1.weight": (12, 3),
        f"{_NORM}.1.3.weight": (3, 12),
        **_SITE,
    },
    "training": {
        "image_proj_model.proj.weight": (24, 5),
        "adapter_modules.1.to_k_ip.weight": (4, 6),
        "unet.conv_in.weight": (2,),
    },
    "face": {
        "image_proj.perceiver_resampler.proj_in.weight": (2, 2),
        "ip_adapter.0.to_q_lora.down.weight": (2, 2),
        "image_proj.norm.weight": (2,),
        **_SITE,
    },
    "unet": {
        "conv_in.weight": (2, 9, 1, 1),
        "time_embedding.linear_1.weight": (2, 2),
        "time_embedding.cond_proj.weight": (2, 2),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (2, 8),
        "up_blocks.0.x": (1,),
    },
    "vae": {
        "encoder.conv_in.weight": (2, 2, 1, 1),
        "decoder.conv_in.weight": (2,),
        "encoder.mid_block.x": (1,),
    },
    "vision": {"vision_model.embeddings.class_embedding": (4,), "visual_projection.weight": (3, 4)},
    "text": {"text_model.embeddings.token_embedding.weight": (3, 4), "encoder.layers.0.x": (1,)},
    "loha": {"a.hada_w1_a": (2,)},
    "lora": {"a.lora_down.weight": (2, 2), "lora_controlnet": (0,), "a.b.dora_scale": ()},
    "controlnet": {"controlnet_cond_embedding.conv_in.weight": (2,), "control_model.a": (1,)},
    "single": {
        "model.diffusion_model.input_blocks.0.0.weight": (2, 2),
        "first_stage_model.a": (1,),
        "cond_stage_model.a": (1,),
    },
    "flux": {"double_blocks.0.a": (2,), "joint_blocks.0.a": (2,), "motion_modules.a": (1,)},
}
"""By kind: a small file of it, as far as its names and shapes tell."""

ODD = (
    "",
    "a",
    "a.b",
    "a" * 256,
    "a" * 257,
    "ü🙂",
    "a\n",
    "\ud800",
    "../x",
    "state_dict",
    "__metadata__",
    "image_proj",
    "ip_adapter",
    "model",
    "0",
    "a..b",
    ".",
    "a\0",
)
_ALL = tuple({name for shapes in KNOWN.values() for name in shapes})


def name(draw: Random) -> str:
    """A name that means something, or one that should not be."""
    return draw.choice(_ALL if draw.random() < 0.6 else ODD)


def shape(draw: Random) -> tuple[int, ...]:
    """A small one, rarely with a side of nothing."""
    sides = (0, 1, 1, 2, 3, 4, 7) if draw.random() < 0.3 else (1, 2, 3, 4, 5)
    return tuple(draw.choice(sides) for _ in range(draw.randrange(5)))
