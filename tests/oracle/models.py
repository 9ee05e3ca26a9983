"""Tiny random models of odd shapes, as diffusers folders; every tensor differs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

DEMO = Path(__file__).resolve().parents[2] / "ipa" / "demo" / "model"

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}

UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (24, 48, 72),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 40,
    "attention_head_dim": (3, 4, 6),
    "norm_num_groups": 12,
}
FOUR_LEVELS: dict[str, Any] = UNET | {
    "block_out_channels": (16, 32, 32, 48),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
"""The shape of Stable Diffusion 1.5, small."""

VAE: dict[str, Any] = {
    # Four levels: diffusers wants multiples of 8 pixels, so this allows latents of any size.
    "block_out_channels": (6, 12, 12, 18),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 6,
    "latent_channels": 4,
    "scaling_factor": 0.31,
}
TEXT: dict[str, Any] = {
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "hidden_act": "quick_gelu",
    "vocab_size": 674,
    "bos_token_id": 672,
    "eos_token_id": 673,
    "pad_token_id": 673,
    "max_position_embeddings": 77,
}
VISION: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "hidden_act": "gelu",
    "image_size": 28,
    "patch_size": 7,
    "projection_dim": 36,
}


SECOND_TEXT: dict[str, Any] = TEXT | {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
    "projection_dim": 64,
}
XL_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32, 48),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": TEXT["hidden_size"] + SECOND_TEXT["hidden_size"],
    "attention_head_dim": (2, 4, 6),
    "norm_num_groups": 4,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": SECOND_TEXT["projection_dim"] + 6 * 8,
}
"""The shape of SDXL, small."""


@dataclass(frozen=True)
class Tiny:
    """Configs of a tiny model; override any of them."""

    unet: dict[str, Any] = field(default_factory=lambda: dict(UNET))
    vae: dict[str, Any] = field(default_factory=lambda: dict(VAE))
    text: dict[str, Any] = field(default_factory=lambda: dict(TEXT))
    vision: dict[str, Any] = field(default_factory=lambda: dict(VISION))
    scheduler: dict[str, Any] = field(default_factory=lambda: dict(SCHEDULER))
    second_text: dict[str, Any] | None = None  # of SDXL
    force_zeros: bool = True  # likewise


def randomize(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fill every parameter with its own random values, of a size that keeps activations alive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and "embedding" not in name:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif name.endswith("weight") and parameter.ndim == 1:
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return module.eval()


def build_folder(
    root: Path, tiny: Tiny | None = None, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a whole random model to `root` in diffusers' layout, with the demo's tokenizer."""
    tiny = tiny or Tiny()
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(**tiny.unet),
        "vae": AutoencoderKL(**tiny.vae),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**tiny.text)),
        "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**tiny.vision)),
    }
    if tiny.second_text is not None:
        second = CLIPTextConfig(**tiny.second_text)
        parts["text_encoder_2"] = CLIPTextModelWithProjection(second)
    for number, (name, module) in enumerate(parts.items()):
        randomize(module, seed * 10 + number).to(dtype).save_pretrained(
            root / name, safe_serialization=True
        )
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(tiny.scheduler))
    for name in ("tokenizer", "feature_extractor"):
        (root / name).mkdir()
        for file in (DEMO / name).iterdir():
            (root / name / file.name).write_bytes(file.read_bytes())
    extractor = json.loads((DEMO / "feature_extractor" / "preprocessor_config.json").read_text())
    side = tiny.vision["image_size"]
    extractor |= {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    (root / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(extractor))
    library = {
        "text_encoder": "CLIPTextModel",
        "image_encoder": "CLIPVisionModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "feature_extractor": "CLIPImageProcessor",
    }
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
    }
    index |= {k: ["transformers", v] for k, v in library.items()}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index |= {
        "scheduler": ["diffusers", tiny.scheduler["_class_name"]],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }
    if tiny.second_text is not None:
        shutil.copytree(root / "tokenizer", root / "tokenizer_2")
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            path = root / "tokenizer_2" / file
            path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "!"}))
        del index["safety_checker"], index["requires_safety_checker"]
        index |= {
            "_class_name": "StableDiffusionXLPipeline",
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": tiny.force_zeros,
        }
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def pickle_weights(folder: Path, *, zipped: bool = True) -> None:
    """A component's safetensors as torch.save and older libraries wrote and called them."""
    for file in folder.glob("*.safetensors"):
        name = "diffusion_pytorch_model" if file.name.startswith("diffusion") else "pytorch_model"
        target = folder / file.with_suffix(".bin").name.replace(file.name.split(".")[0], name, 1)
        tensors = safetensors.torch.load_file(file)
        torch.save(tensors, target, _use_new_zipfile_serialization=zipped)
        file.unlink()


def adapter_tensors(
    kind: str,
    sites: list[tuple[int, int]],
    *,
    context: int,
    feature: int,
    seed: int = 0,
    tokens: int = 4,
    width: int = 128,
) -> dict[str, torch.Tensor]:
    """Random IP-Adapter weights in the original naming.

    Args:
        kind: "linear", "resampler" or "mlp".
        sites: (number, width) of every cross-attention.
        context: The UNet's cross_attention_dim.
        feature: Width of the encoder's feature.
        seed: Of the weights.
        tokens: Image tokens (linear: diffusers assumes 4).
        width: Inner width of the resampler; heads of 64. diffusers assumes depth 4 and ff × 4.
    """
    g = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=g) / columns**0.5

    def bias(n: int) -> torch.Tensor:
        return 0.2 * torch.randn(n, generator=g)

    def norm(prefix: str, n: int) -> dict[str, torch.Tensor]:
        return {f"{prefix}.weight": 1 + bias(n), f"{prefix}.bias": bias(n)}

    p: dict[str, torch.Tensor] = {}
    if kind == "linear":
        p |= {
            "proj.weight": matrix(tokens * context, feature),
            "proj.bias": bias(tokens * context),
        } | norm("norm", context)
    elif kind == "mlp":
        p |= {
            "proj.0.weight": matrix(feature, feature),
            "proj.0.bias": bias(feature),
            "proj.2.weight": matrix(context, feature),
            "proj.2.bias": bias(context),
        } | norm("proj.3", context)
    else:
        p |= {
            "latents": torch.randn(1, tokens, width, generator=g),
            "proj_in.weight": matrix(width, feature),
            "proj_in.bias": bias(width),
            "proj_out.weight": matrix(context, width),
            "proj_out.bias": bias(context),
        } | norm("norm_out", context)
        for i in range(4):
            p |= (
                norm(f"layers.{i}.0.norm1", width)
                | norm(f"layers.{i}.0.norm2", width)
                | norm(f"layers.{i}.1.0", width)
            )
            p |= {
                f"layers.{i}.0.to_q.weight": matrix(width, width),
                f"layers.{i}.0.to_kv.weight": matrix(2 * width, width),
                f"layers.{i}.0.to_out.weight": matrix(width, width),
                f"layers.{i}.1.1.weight": matrix(4 * width, width),
                f"layers.{i}.1.3.weight": matrix(width, 4 * width),
            }
    out = {f"image_proj.{k}": v for k, v in p.items()}
    for number, rows in sites:
        out |= {f"ip_adapter.{number}.to_{x}_ip.weight": matrix(rows, context) for x in "kv"}
    return out


def write_adapter(
    path: Path, tensors: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32
) -> Path:
    """Write adapter tensors as one safetensors file."""
    safetensors.torch.save_file({k: v.to(dtype).contiguous() for k, v in tensors.items()}, path)
    return path


def unet_sites(config: dict[str, Any]) -> list[tuple[int, int]]:
    """(number, width) of every cross-attention, from diffusers' own enumeration."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return [
        (number, unet.get_submodule(name.removesuffix(".processor")).to_q.out_features)
        for number, name in enumerate(unet.attn_processors)
        if name.endswith("attn2.processor")
    ]


def build_with_adapters(root: Path, tiny: Tiny | None = None, *, seed: int = 0) -> Path:
    """`build_folder`, with linear.safetensors, plus.safetensors and full.safetensors beside it."""
    tiny = tiny or Tiny()
    build_folder(root, tiny, seed=seed)
    shared = {"sites": unet_sites(tiny.unet), "context": tiny.unet["cross_attention_dim"]}
    pooled, width = tiny.vision["projection_dim"], tiny.vision["hidden_size"]
    for number, (name, kind, options) in enumerate(
        (
            ("linear", "linear", {"feature": pooled}),
            ("plus", "resampler", {"feature": width, "tokens": 6}),
            ("full", "mlp", {"feature": width}),
        )
    ):
        tensors = adapter_tensors(kind, seed=100 * seed + number, **shared, **options)
        write_adapter(root / f"{name}.safetensors", tensors)
    return root
