"""CLIP's two towers, tiny and random, written in every spelling that people use.

Independent of the converters; what is written as OpenCLIP's is held to its own network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from ipa_torch.files.weights import quiet
from oracle import models

Tensors = dict[str, torch.Tensor]
WIDE, SQUARE = 36, 40  # widths of the projection; the text tower is 40 wide
LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
TEXT_OUTER = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
VISION_OUTER = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}


def text_config(projection: int, **changes: Any) -> dict[str, Any]:
    return models.TEXT | {"projection_dim": projection} | changes


def vision_config(projection: int) -> dict[str, Any]:
    return models.VISION | {"projection_dim": projection}


def whole(projection: int, dtype: torch.dtype = torch.float32) -> Tensors:
    """A random CLIPModel of transformers: both towers as every public file names them."""
    texts, visions = text_config(projection), vision_config(projection)
    config = CLIPConfig(text_config=texts, vision_config=visions, projection_dim=projection)
    with quiet():
        module = models.randomize(CLIPModel(config), 3).to(dtype)
    return module.state_dict()


def text_of(tensors: Tensors) -> Tensors:
    return {n: v for n, v in tensors.items() if n.startswith("text_")}


def vision_of(tensors: Tensors) -> Tensors:
    return {n: v for n, v in tensors.items() if n.startswith("vis")}


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def layers_to_open_clip(tensors: Tensors, source: str, target: str) -> Tensors:
    """Fused by concatenation; held to OpenCLIP's own network in `test_the_tests_writer`."""
    found = {}
    for name, value in tensors.items():
        if not name.startswith(source):
            continue
        number, _, rest = name.removeprefix(source).partition(".")
        if ".q_proj." in name:
            parts = [
                tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")
            ]
            kind = rest.rsplit(".", 1)[1]
            found[f"{target}{number}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            inner, kind = rest.rsplit(".", 1)
            found[f"{target}{number}.{LAYER[inner]}.{kind}"] = value
    return found


def to_open_clip(tensors: Tensors) -> Tensors:
    """Both towers, or the one that there is, as OpenCLIP names and stores them."""
    outer = TEXT_OUTER | VISION_OUTER
    found = {outer[name]: value for name, value in tensors.items() if name in outer}
    turned = {
        "text_projection.weight": "text_projection",
        "visual_projection.weight": "visual.proj",
    }
    found |= {turned[name]: value.T for name, value in tensors.items() if name in turned}
    for source, target in (
        ("text_model.encoder.layers.", "transformer.resblocks."),
        ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ):
        found |= layers_to_open_clip(tensors, source, target)
    return found


def linear_projection(tensors: Tensors) -> Tensors:
    """OpenCLIP's naming, but the projection of a linear layer, as some of ComfyUI's files."""
    found = to_open_clip(text_of(tensors))
    found["text_projection.weight"] = found.pop("text_projection").T
    return found


def unprefixed(tensors: Tensors, tower: str) -> Tensors:
    return {name.removeprefix(f"{tower}."): value for name, value in tensors.items()}


def as_parameter(tensors: Tensors) -> Tensors:
    """transformers' names, but the projection of older ComfyUI: a parameter that multiplies."""
    found = under("transformer.", text_of(tensors))
    found["text_projection"] = found.pop("transformer.text_projection.weight").T
    return found


SCALE = {"logit_scale": torch.tensor(4.6)}
MASK = {"attn_mask": torch.full((77, 77), -torch.inf).triu(1)}
SIZES = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
Writer = Callable[[Tensors], Tensors]
TEXT_SPELLINGS: dict[str, Writer] = {
    "transformers": text_of,
    "whole": lambda t: t | SCALE,
    "whole with position ids": lambda t: (
        t
        | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        | {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    ),
    "without prefix": lambda t: unprefixed(text_of(t), "text_model"),
    "CompVis' embedder": lambda t: under("transformer.", text_of(t)),
    "merge without prefix": lambda t: under("transformer.", unprefixed(text_of(t), "text_model")),
    "clip_l": lambda t: under("clip_l.", text_of(t) | SCALE),
    "clip_l.transformer": lambda t: under("clip_l.", under("transformer.", text_of(t)) | SCALE),
    "clip_g with a parameter": lambda t: under("clip_g.", as_parameter(t) | SCALE),
    "OpenCLIP": lambda t: to_open_clip(text_of(t)) | SCALE | MASK,
    "OpenCLIP under clip_g": lambda t: under("clip_g.", to_open_clip(text_of(t)) | SCALE),
    "OpenCLIP under clip_h": lambda t: under("clip_h.", to_open_clip(text_of(t))),
    "OpenCLIP as a model": lambda t: under("model.", to_open_clip(text_of(t)) | SCALE),
    "OpenCLIP with a linear projection": linear_projection,
    "OpenAI, whole": lambda t: to_open_clip(t) | SCALE | SIZES,
    "OpenCLIP, whole, CustomTextCLIP": lambda t: (
        under("text.", to_open_clip(text_of(t))) | to_open_clip(vision_of(t)) | SCALE
    ),
}
VISION_SPELLINGS: dict[str, Writer] = {
    "transformers": vision_of,
    "whole": lambda t: t | SCALE,
    "without prefix": lambda t: unprefixed(vision_of(t), "vision_model"),
    "mended": lambda t: {n.replace("layrnorm", "layernorm"): v for n, v in vision_of(t).items()},
    "OpenCLIP": lambda t: to_open_clip(vision_of(t)) | SCALE,
    "OpenAI, whole": lambda t: to_open_clip(t) | SCALE | MASK | SIZES,
    "OpenCLIP, whole, linear text projection": lambda t: (
        to_open_clip(vision_of(t)) | linear_projection(t)
    ),
    "OpenCLIP, whole, CustomTextCLIP": TEXT_SPELLINGS["OpenCLIP, whole, CustomTextCLIP"],
}
