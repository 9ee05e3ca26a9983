"""FaceID adapters on fresh random weights, and what diffusers makes of any adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from oracle import models

Tensors = dict[str, torch.Tensor]

SDXL: dict[str, Any] = models.UNET | {
    "block_out_channels": (24, 48, 72),
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
    "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "cross_attention_dim": 64,
}
"""The blocks of Stable Diffusion XL, small."""
SD15: dict[str, Any] = models.FOUR_LEVELS | {"cross_attention_dim": 64}


def face_tensors(
    config: dict[str, Any], kind: str, *, rank: int = 0, tokens: int = 4, seed: int = 0
) -> Tensors:
    """Random weights of "faceid" or "faceid_plus" for a UNet, in the original naming.

    The face embedding has 512 values, as ArcFace's; diffusers assumes depth 4, heads of 64 and
    feed-forwards four times as wide. `rank` is that of the LoRA; 0 leaves it out.
    """
    context = config["cross_attention_dim"]
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g) / shape[-1] ** 0.5

    # Linear layers of the token MLP, whose names do not depend on the kind.
    out = {
        "image_proj.proj.0.weight": draw(1024, 512),
        "image_proj.proj.0.bias": draw(1024),
        "image_proj.proj.2.weight": draw(tokens * context, 1024),
        "image_proj.proj.2.bias": draw(tokens * context),
        "image_proj.norm.weight": draw(context),
        "image_proj.norm.bias": draw(context),
    }
    if kind == "faceid_plus":
        shapes = _resampler(context, 128, 30)
        root = "image_proj.perceiver_resampler"
        out |= {f"{root}.{name}": draw(*shape) for name, shape in shapes.items()}
    for number, width in models.unet_sites(config):
        for part in "kv":
            out[f"ip_adapter.{number}.to_{part}_ip.weight"] = draw(width, context)
        if rank:
            out |= _lora(number - 1, width, width, rank, draw)
            out |= _lora(number, width, context, rank, draw)
    return out


def _resampler(width: int, inner: int, states: int) -> dict[str, tuple[int, ...]]:
    """`FacePerceiverResampler`: two heads, which are not as wide as what they attend to."""
    shapes: dict[str, tuple[int, ...]] = {
        "proj_in.weight": (width, states),
        "proj_in.bias": (width,),
        "proj_out.weight": (width, width),
        "proj_out.bias": (width,),
        "norm_out.weight": (width,),
        "norm_out.bias": (width,),
    }
    for i in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"layers.{i}.{norm}.{part}": (width,) for part in ("weight", "bias")}
        shapes |= {
            f"layers.{i}.0.to_q.weight": (inner, width),
            f"layers.{i}.0.to_kv.weight": (2 * inner, width),
            f"layers.{i}.0.to_out.weight": (width, inner),
            f"layers.{i}.1.1.weight": (4 * width, width),
            f"layers.{i}.1.3.weight": (width, 4 * width),
        }
    return shapes


def _lora(number: int, width: int, context: int, rank: int, draw: Any) -> Tensors:
    out = {}
    for part, inputs in {"q": width, "k": context, "v": context, "out": width}.items():
        out[f"ip_adapter.{number}.to_{part}_lora.down.weight"] = draw(rank, inputs)
        out[f"ip_adapter.{number}.to_{part}_lora.up.weight"] = draw(width, rank)
    return out


@dataclass(frozen=True)
class InDiffusers:
    """An adapter as diffusers' own loader leaves it.

    `projector` by the names of diffusers' class, `sites` by module path and "to_k" or "to_v",
    `lora` by module path, "to_q" and so on, and "down" or "up".
    """

    projector: Tensors
    sites: dict[tuple[str, str], torch.Tensor]
    lora: dict[tuple[str, str, str], torch.Tensor]


def load_in_diffusers(config: dict[str, Any], tensors: Tensors) -> InDiffusers:
    """Let diffusers number, split and rename the tensors of an original file."""
    with torch.device("meta"):  # of the UNet, only its structure counts
        unet = UNet2DConditionModel(**config)
    parts: dict[str, Tensors] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = value
    projector = unet._convert_ip_adapter_image_proj_to_diffusers(
        parts["image_proj"], low_cpu_mem_usage=False
    )
    processors = unet._convert_ip_adapter_attn_to_diffusers([parts], low_cpu_mem_usage=False)
    lora = unet._load_ip_adapter_loras([parts])
    return InDiffusers(
        projector=dict(projector.state_dict()),
        sites=dict(_sites(processors)),
        lora=dict(_lora_parts(lora[0].items() if lora else ())),
    )


def _sites(processors: dict[str, Any]) -> Iterator[tuple[tuple[str, str], torch.Tensor]]:
    for name, processor in processors.items():
        if name.endswith("attn2.processor"):
            path = name.removesuffix(".processor")
            yield (path, "to_k"), processor.to_k_ip[0].weight.data
            yield (path, "to_v"), processor.to_v_ip[0].weight.data


def _lora_parts(
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[tuple[tuple[str, str, str], torch.Tensor]]:
    for name, value in tensors:
        path, _, rest = name.removeprefix("unet.").partition(".processor.")
        part, direction, _ = rest.split(".")
        yield (path, part.removesuffix("_lora"), direction), value
