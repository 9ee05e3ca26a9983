"""LoRAs of random weights, spelled by hand in every public way; independent of the converters.

The modules are those of diffusers' and transformers' own models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from oracle import models

SDXL_UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32, 48),
    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 44,
    "attention_head_dim": (1, 2, 4),
    "norm_num_groups": 8,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 28 + 6 * 8,
}
"""The blocks of SDXL, all of them, narrow."""
SDXL_TEXT = models.TEXT | {"hidden_size": 20, "num_attention_heads": 2}
SDXL_TEXT_2 = models.TEXT | {
    "hidden_size": 24,
    "num_attention_heads": 3,
    "hidden_act": "gelu",
    "projection_dim": 28,
    "architectures": ["CLIPTextModelWithProjection"],
}
SD_UNET = models.FOUR_LEVELS | {"cross_attention_dim": 40}

Place = tuple[str, str]
"""A component, and the path of a layer as public files know it: with `text_model`."""


@dataclass(frozen=True)
class Pair:
    """One layer's change, in PyTorch's layout."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float | None = None

    @property
    def delta(self) -> torch.Tensor:
        """The formula, in float64."""
        down, up = self.down.double(), self.up.double()
        scale = 1.0 if self.alpha is None else self.alpha / len(down)
        return scale * torch.einsum("or...,ri...->oi...", up, down)

    def rounding(self, scale: float | None = None) -> torch.Tensor:
        """The most by which a product in float32 may be off, summed in any order on any processor.

        Every product, every sum, the scale and the product with it round once: Higham 2002, 3.5.
        """
        down, up = self.down.double().abs(), self.up.double().abs()
        own = 1.0 if self.alpha is None else self.alpha / len(down)
        size = torch.einsum("or...,ri...->oi...", up, down) * (own if scale is None else scale)
        return (len(down) + 2) * 2.0**-24 * size * (1 + 1e-6)


Pairs = Mapping[Place, Pair]


@dataclass(frozen=True)
class File:
    """A state dict, and what a safetensors file says of itself."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str] | None = None


def sd_pipeline() -> StableDiffusionPipeline:
    """The networks of Stable Diffusion 1.5, small; a new one."""
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(**SD_UNET),
        text_encoder=CLIPTextModel(CLIPTextConfig(**models.TEXT)),
        vae=None,
        tokenizer=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl_pipeline() -> StableDiffusionXLPipeline:
    """The networks of SDXL, small; a new one."""
    return StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(**SDXL_UNET),
        text_encoder=CLIPTextModel(CLIPTextConfig(**SDXL_TEXT)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**SDXL_TEXT_2)),
        vae=None,
        tokenizer=None,
        tokenizer_2=None,
        scheduler=None,
    )


def layers(pipe: Any) -> dict[Place, torch.nn.Module]:
    """Every layer that a LoRA may change."""
    found = {}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        network = getattr(pipe, component, None)
        for path, module in network.named_modules() if network is not None else ():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                flat = component != "unet" and path.startswith("encoder.")
                found[component, f"text_model.{path}" if flat else path] = module
    return found


def random_pairs(
    modules: Mapping[Place, torch.nn.Module],
    seed: int = 0,
    *,
    alphas: bool = True,
    ranks: tuple[int, ...] = (1, 2, 3, 5),
    dtype: torch.dtype = torch.float32,
) -> dict[Place, Pair]:
    """A pair for every layer, all different, ranks and alphas too."""
    g = torch.Generator().manual_seed(seed)
    pairs = {}
    for number, (place, module) in enumerate(modules.items()):
        outputs, inputs, *kernel = module.weight.shape
        rank = ranks[number % len(ranks)]
        down = torch.randn(rank, inputs, *kernel, generator=g) / module.weight[0].numel() ** 0.5
        up = torch.randn(outputs, rank, *(1 for _ in kernel), generator=g)
        alpha = (0.5, 1.0, 3.0, 8.0, 0.75)[number % 5] if alphas else None
        pairs[place] = Pair(down.to(dtype), up.to(dtype), alpha)
    return pairs


def fused(build: Callable[[], Any], path: Path) -> dict[Place, torch.Tensor]:
    """What diffusers adds to every layer that it finds in a LoRA file: its judgement."""
    pipe = build()
    modules = layers(pipe)
    with torch.no_grad():
        for module in modules.values():
            module.weight.zero_()
    pipe.load_lora_weights(str(path))
    pipe.fuse_lora()
    return {
        place: module.weight.detach()
        for place, module in modules.items()
        if module.weight.abs().max() > 0
    }


def rank_stabilised(pair: Pair) -> float:
    """PEFT's scale under `use_rslora`."""
    return float(pair.alpha or 0.0) / len(pair.down) ** 0.5


def check_fused(
    found: Mapping[Place, np.ndarray],
    fused: Mapping[Place, torch.Tensor],
    pairs: Pairs,
    scale: Callable[[Pair], float] | None = None,
) -> None:
    """Two float32 products, each of which sums in an order of its own; mostly the same bits."""
    for place, weight in fused.items():
        error = np.abs(found[place] - weight.numpy())
        allowed = 2 * pairs[place].rounding(scale(pairs[place]) if scale else None)
        assert (error <= allowed.numpy()).all(), place


PREFIXES = {
    "sd": {"unet": "lora_unet", "text_encoder": "lora_te"},
    "sdxl": {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
}


def kohya(pairs: Pairs, base: str, original: Mapping[str, str] | None = None) -> File:
    """sd-scripts'; the UNet's layers by their original names if these are given."""
    tensors = {}
    for (component, path), pair in pairs.items():
        spelled = (original or {}).get(path, path) if component == "unet" else path
        stem = f"{PREFIXES[base][component]}_{spelled.replace('.', '_')}"
        tensors |= _kohya_tensors(stem, pair)
    return File(tensors)


def comfy(pairs: Pairs, original: Mapping[str, str]) -> File:
    """ComfyUI's own, of the UNet alone."""
    tensors = {}
    for (_, path), pair in pairs.items():
        stem = f"diffusion_model.{original[path]}"
        tensors |= {f"{stem}.lora_A.weight": pair.down, f"{stem}.lora_B.weight": pair.up}
    return File(tensors)


def face(pairs: Pairs, *, prefix: str, words: Mapping[str, str]) -> File:
    """FaceID's stand-alone LoRAs."""
    tensors = {}
    for (_, path), pair in pairs.items():
        attention, tail = path.split(".to_")
        word = words[f"to_{tail}"]
        tensors |= _kohya_tensors(f"{prefix}{attention.replace('.', '_')}_{word}", pair)
    return File(tensors)


def old(pairs: Pairs, *, head: bool = True) -> File:
    """diffusers' first one, of attentions alone; `head`: with the leading component."""
    tensors = {}
    words = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    for (component, path), pair in pairs.items():
        if component == "unet":
            attention, tail = path.split(".to_")
            stem = f"{attention}.processor.to_{tail.removesuffix('.0')}_lora"
        else:
            attention, tail = path.rsplit(".", 1)
            stem = f"{attention}.{words[tail]}_lora"
        stem = f"{component}.{stem}" if head else stem
        tensors |= {f"{stem}.down.weight": pair.down, f"{stem}.up.weight": pair.up}
    return File(tensors)


def middle(pairs: Pairs) -> File:
    """diffusers' second one."""
    tensors = {}
    for (component, path), pair in pairs.items():
        word = "lora" if component == "unet" else "lora_linear_layer"
        stem = f"{component}.{path}.{word}"
        tensors |= {f"{stem}.down.weight": pair.down, f"{stem}.up.weight": pair.up}
    return File(tensors)


def peft(
    pairs: Pairs,
    *,
    head: str = "{component}.",
    adapter: str = "",
    config: Mapping[str, Any] | None = None,
) -> File:
    """PEFT's, with what stands before the path and the adapter's name."""
    tensors = {}
    for (component, path), pair in pairs.items():
        stem = head.format(component=component) + path
        tensors |= {
            f"{stem}.lora_A{adapter}.weight": pair.down,
            f"{stem}.lora_B{adapter}.weight": pair.up,
        }
    return File(tensors, {"lora_adapter_metadata": json.dumps(config)} if config else None)


def peft_config(pairs: Pairs, **more: Any) -> dict[str, Any]:
    """The configuration that diffusers writes beside: default values, and patterns for the rest."""
    config: dict[str, Any] = {}
    for component in dict.fromkeys(component for component, _ in pairs):
        own = {path: pair for (part, path), pair in pairs.items() if part == component}
        short = {path.removeprefix("text_model."): pair for path, pair in own.items()}
        fields = {
            "r": 4,
            "lora_alpha": 7,
            "rank_pattern": {path: len(pair.down) for path, pair in short.items()},
            "alpha_pattern": {path: pair.alpha for path, pair in short.items()},
            "target_modules": list(short),
            "peft_type": "LORA",
        }
        config |= {f"{component}.{key}": value for key, value in (fields | more).items()}
    return config


def without_alphas(pairs: Pairs) -> dict[Place, Pair]:
    """For spellings that have none."""
    return {place: replace(pair, alpha=None) for place, pair in pairs.items()}


def only(pairs: Mapping[Place, Any], words: Iterable[str]) -> dict[Place, Any]:
    """Those of layers whose path ends with one of these words."""
    return {place: pair for place, pair in pairs.items() if place[1].endswith(tuple(words))}


def _kohya_tensors(stem: str, pair: Pair) -> dict[str, torch.Tensor]:
    tensors = {f"{stem}.lora_down.weight": pair.down, f"{stem}.lora_up.weight": pair.up}
    if pair.alpha is not None:
        tensors[f"{stem}.alpha"] = torch.tensor(pair.alpha)
    return tensors


def weak(pairs: Pairs, *, alpha: float | None = None) -> dict[Place, Pair]:
    """Changes that are smaller than what they change, with one alpha or none."""
    return {place: Pair(p.down, 0.1 * p.up, alpha) for place, p in pairs.items()}


def write(path: Path, file: File) -> Path:
    """As a safetensors file."""
    tensors = {name: tensor.contiguous() for name, tensor in file.tensors.items()}
    metadata = {"format": "pt", **(file.metadata or {})}
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    return path
