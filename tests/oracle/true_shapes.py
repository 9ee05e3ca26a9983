"""Names and shapes of public files at their true sizes, from the modules of other libraries."""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ipa import bases
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa_convert.tables import ldm

Shapes = dict[str, tuple[int, ...]]

_OPEN_CLIP_INNER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def config(base: str, component: str) -> dict[str, Any]:
    """A component's embedded config."""
    return json.loads((bases.folder(base) / component / "config.json").read_text())


@functools.cache
def single_file(base: str) -> Shapes:
    """A whole model in one file, as its authors published it: "sd15", "sd2" or "sdxl"."""
    shapes = unet(base) | vae(base)
    if base == "sd15":
        return shapes | text(base, "text_encoder", "cond_stage_model.transformer.")
    if base == "sd2":
        return shapes | open_clip(base, "text_encoder", "cond_stage_model.model.", layers=24)
    return (
        shapes
        | text(base, "text_encoder", "conditioner.embedders.0.transformer.")
        | open_clip(base, "text_encoder_2", "conditioner.embedders.1.model.", layers=32)
    )


def unet(base: str, prefix: str = "model.diffusion_model.") -> Shapes:
    """The UNet in its original names."""
    with torch.device("meta"):
        shapes = _shapes(UNet2DConditionModel(**config(base, "unet")))
    names = ldm.unet_names(shapes, UNetSpec.from_config(config(base, "unet")))
    return {prefix + original: shapes[name] for original, name in names.items()}


def vae(base: str, prefix: str = "first_stage_model.") -> Shapes:
    """The VAE in its original names; its attention is made of 1×1 convolutions."""
    with torch.device("meta"):
        shapes = _shapes(AutoencoderKL(**config(base, "vae")))
    names = ldm.vae_names(shapes, VaeSpec.from_config(config(base, "vae")))
    return {
        prefix + original: shapes[name]
        + ((1, 1) if ".attn_1." in original and len(shapes[name]) == 2 else ())
        for original, name in names.items()
    }


def text(base: str, component: str, prefix: str) -> Shapes:
    """A text encoder as transformers long spelled it."""
    with torch.device("meta"):
        shapes = _shapes(CLIPTextModel(CLIPTextConfig(**config(base, component))))
    return {f"{prefix}text_model.{name}": shape for name, shape in shapes.items()}


def open_clip(base: str, component: str, prefix: str, layers: int) -> Shapes:
    """A text encoder as OpenCLIP spells it: q, k and v in one matrix."""
    with torch.device("meta"):
        module = CLIPTextModelWithProjection(CLIPTextConfig(**config(base, component)))
    shapes = {n.removeprefix("text_model."): s for n, s in _shapes(module).items()}
    width, projection = config(base, component)["hidden_size"], shapes["text_projection.weight"][0]
    found: Shapes = {
        "token_embedding.weight": shapes["embeddings.token_embedding.weight"],
        "positional_embedding": shapes["embeddings.position_embedding.weight"],
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, projection),
        "logit_scale": (),
    }
    for layer in range(layers):
        path = f"transformer.resblocks.{layer}"
        found[f"{path}.attn.in_proj_weight"] = (3 * width, width)
        found[f"{path}.attn.in_proj_bias"] = (3 * width,)
        for here, there in _OPEN_CLIP_INNER.items():
            for kind in ("weight", "bias"):
                found[f"{path}.{there}.{kind}"] = shapes[f"encoder.layers.0.{here}.{kind}"]
    return {prefix + name: shape for name, shape in found.items()}


def _shapes(module: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
