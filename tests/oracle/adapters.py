"""FaceID adapters on fresh random weights, and what diffusers makes of any adapter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from oracle import models

Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

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


@cache
def _structure(config: str) -> UNet2DConditionModel:
    with torch.device("meta"):  # only the names and widths of its attentions count
        return UNet2DConditionModel(**json.loads(config))


def sites(config: dict[str, Any]) -> list[tuple[int, int]]:
    """(number, width) of every cross-attention, as `models.unet_sites`, but built once."""
    unet = _structure(json.dumps(config))
    return [
        (number, unet.get_submodule(name.removesuffix(".processor")).to_q.out_features)
        for number, name in enumerate(unet.attn_processors)
        if name.endswith("attn2.processor")
    ]


def face_tensors(
    config: dict[str, Any],
    kind: str,
    *,
    rank: int = 0,
    tokens: int = 4,
    states: int = 30,
    seed: int = 0,
) -> Tensors:
    """Random weights of "faceid" or "faceid_plus" for a UNet, in the original naming.

    The face embedding has 512 values, as ArcFace's; diffusers assumes depth 4, heads of 64 and
    feed-forwards four times as wide. `rank` is that of the LoRA; 0 leaves it out. `states` is the
    width of what "faceid_plus" sees.
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
        shapes = _resampler(context, 128, states, context)  # two heads, wider than the rest
        root = "image_proj.perceiver_resampler"
        out |= {f"{root}.{name}": draw(*shape) for name, shape in shapes.items()}
    for number, width in sites(config):
        for part in "kv":
            out[f"ip_adapter.{number}.to_{part}_ip.weight"] = draw(width, context)
        if rank:
            out |= _lora(number - 1, width, width, rank, draw)
            out |= _lora(number, width, context, rank, draw)
    return out


def random_tensors(config: dict[str, Any], kind: str, seed: int = 0, **sizes: int) -> Tensors:
    """Random weights of any kind for a UNet, all tensors different.

    "linear", "mlp" and "resampler" see features of 30 values, "face resampler" identities; "faceid"
    and "faceid_plus" have a LoRA, "portrait" has none. `sizes`: see `models.adapter_tensors`.
    """
    if kind in {"faceid", "portrait", "faceid_plus"}:
        options = {"tokens": 16} if kind == "portrait" else {"rank": 3}
        structure = "faceid" if kind == "portrait" else kind
        return face_tensors(config, structure, seed=seed, **options)
    usual = {"feature": 512, "tokens": 16} if kind == "face resampler" else {"feature": 30}
    return models.adapter_tensors(
        kind.removeprefix("face "),
        sites(config),
        context=config["cross_attention_dim"],
        seed=seed,
        **(usual | sizes),
    )


def nested(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """An adapter as torch.save wrote the published ones: a dict of two dicts."""
    parts: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = value
    return parts


def site_shapes(places: Iterable[tuple[int, int]], context: int) -> Shapes:
    """The keys' and values' tensors of an adapter for sites of (number, width)."""
    return {
        f"ip_adapter.{number}.to_{part}_ip.weight": (width, context)
        for number, width in places
        for part in "kv"
    }


def projector_shapes(
    structure: str, *, context: int, feature: int, tokens: int, width: int
) -> Shapes:
    """A projector's tensors in the original naming, at sizes that may be the published ones."""
    norm = {f"norm.{part}": (context,) for part in ("weight", "bias")}
    face = {
        "proj.0.weight": (1024, 512),
        "proj.0.bias": (1024,),
        "proj.2.weight": (tokens * context, 1024),
        "proj.2.bias": (tokens * context,),
    }
    found: Shapes
    match structure:
        case "linear":
            rows = tokens * context
            found = {"proj.weight": (rows, feature), "proj.bias": (rows,)} | norm
        case "mlp":
            found = {"proj.0.weight": (feature, feature), "proj.0.bias": (feature,)}
            found |= {"proj.2.weight": (context, feature), "proj.2.bias": (context,)}
            found |= {f"proj.3.{part}": (context,) for part in ("weight", "bias")}
        case "faceid":
            found = face | norm
        case "faceid_plus":
            inner = _resampler(context, context, feature, context)
            found = face | norm | {f"perceiver_resampler.{n}": s for n, s in inner.items()}
        case _:
            found = {"latents": (1, tokens, width)} | _resampler(width, width, feature, context)
    return {f"image_proj.{name}": shape for name, shape in found.items()}


def _resampler(width: int, inner: int, states: int, context: int) -> Shapes:
    """`Resampler` without its latents, or `FacePerceiverResampler`; `inner`: all heads' width."""
    shapes: Shapes = {
        "proj_in.weight": (width, states),
        "proj_in.bias": (width,),
        "proj_out.weight": (context, width),
        "proj_out.bias": (context,),
        "norm_out.weight": (context,),
        "norm_out.bias": (context,),
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
    unet = _structure(json.dumps(config))
    parts = nested(tensors)
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
