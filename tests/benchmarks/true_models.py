"""Random models of the true SD1.5 sizes, as diffusers folders of 7 GB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oracle import models

CHANNELS = (320, 640, 1280, 1280)
UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": CHANNELS,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "vocab_size": 49408,
}
VIT_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 1024,
}
UNET_PARAMETERS = 859_520_964


def build(folder: Path) -> Path:
    """A model with ViT-H, and base and plus adapters beside it."""
    tiny = models.Tiny(unet=UNET, vae=VAE, text=TEXT, vision=VIT_H)
    models.build_folder(folder, tiny, seed=3)
    sites = models.unet_sites(UNET)
    base = models.adapter_tensors("linear", sites, context=768, feature=1024, seed=11)
    plus = models.adapter_tensors(
        "resampler", sites, context=768, feature=1280, seed=12, tokens=16, width=768
    )
    models.write_adapter(folder / "base.safetensors", base)
    models.write_adapter(folder / "plus.safetensors", plus)
    return folder
