"""Tiny models as single files, in the original names; diffusers' own loader judges the spelling."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa_convert.tables import ldm

Tensors = dict[str, torch.Tensor]


def component(folder: Path, name: str) -> Tensors:
    """A component's tensors as diffusers or transformers saved them."""
    (file,) = (folder / name).glob("*.safetensors")
    return safetensors.torch.load_file(file)


def config(folder: Path, name: str) -> dict[str, Any]:
    """A component's config."""
    return json.loads((folder / name / "config.json").read_text())


def unet_tensors(folder: Path, prefix: str = "model.diffusion_model.") -> Tensors:
    """The UNet in the original names."""
    tensors = component(folder, "unet")
    names = ldm.unet_names(tensors, UNetSpec.from_config(config(folder, "unet")))
    assert len(names) == len(tensors)
    return {prefix + original: tensors[name] for original, name in names.items()}


def vae_tensors(folder: Path, prefix: str = "first_stage_model.") -> Tensors:
    """The VAE in the original names; its attention is made of 1×1 convolutions."""
    tensors = component(folder, "vae")
    names = ldm.vae_names(tensors, VaeSpec.from_config(config(folder, "vae")))
    assert len(names) == len(tensors)
    found = {}
    for original, name in names.items():
        tensor = tensors[name]
        pointwise = ".attn_1." in original and tensor.ndim == 2
        found[prefix + original] = tensor[:, :, None, None] if pointwise else tensor
    return found


def text_tensors(folder: Path, prefix: str, name: str = "text_encoder") -> Tensors:
    """A text encoder as older transformers spelled it, with the position ids that it kept."""
    found = {}
    for key, tensor in component(folder, name).items():
        plain = key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"
        found[prefix + plain] = tensor
    positions = config(folder, name)["max_position_embeddings"]
    found[f"{prefix}text_model.embeddings.position_ids"] = torch.arange(positions)[None]
    return found


def open_clip_tensors(folder: Path, prefix: str, name: str) -> Tensors:
    """A text encoder as OpenCLIP spells it: q, k, v in one matrix, the projection transposed."""
    found: Tensors = {}
    tensors = {k.removeprefix("text_model."): v for k, v in component(folder, name).items()}
    whole = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    inner = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for old, new in whole.items():
        found[prefix + new] = tensors[old]
    if "text_projection.weight" in tensors:
        found[f"{prefix}text_projection"] = tensors["text_projection.weight"].T.contiguous()
    layers = config(folder, name)["num_hidden_layers"]
    for layer in range(layers):
        here, there = f"encoder.layers.{layer}", f"{prefix}transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            parts = [tensors[f"{here}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            found[f"{there}.attn.in_proj_{kind}"] = torch.cat(parts)
            for old, new in inner.items():
                found[f"{there}.{new}.{kind}"] = tensors[f"{here}.{old}.{kind}"]
    found[f"{prefix}logit_scale"] = torch.tensor(4.6)
    return found


def leftovers() -> Tensors:
    """What a training of the original code leaves in its checkpoints."""
    return {
        "betas": torch.linspace(1e-4, 2e-2, 10),
        "alphas_cumprod": torch.rand(10),
        "sqrt_recipm1_alphas_cumprod": torch.rand(10),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(7, dtype=torch.int32),
        "first_stage_model.loss.logvar": torch.zeros(()),
    }


def sd15(folder: Path) -> Tensors:
    """A model of the first kind."""
    return {
        **unet_tensors(folder),
        **vae_tensors(folder),
        **text_tensors(folder, "cond_stage_model.transformer."),
        **leftovers(),
    }


def sd2(folder: Path, prefix: str = "cond_stage_model.model.") -> Tensors:
    """A model of the second kind."""
    text = open_clip_tensors(folder, prefix, "text_encoder")
    return {**unet_tensors(folder), **vae_tensors(folder), **text, **leftovers()}


def sdxl(folder: Path) -> Tensors:
    """A model with two text encoders."""
    first, second = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
    return {
        **unet_tensors(folder),
        **vae_tensors(folder),
        **text_tensors(folder, first),
        **open_clip_tensors(folder, second, "text_encoder_2"),
    }


def write(path: Path, tensors: Tensors, container: str) -> Path:
    """Write a file: "safetensors", "torch zip", "torch stream", or as Lightning saved trainings."""
    if container == "safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    elif container == "lightning":
        torch.save({"epoch": 3, "global_step": 875000, "state_dict": tensors}, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=container == "torch zip")
    return path


CONTAINERS = ("safetensors", "torch zip", "torch stream", "lightning")


def configs(folder: Path, target: Path) -> Path:
    """The configs of a model without its weights, and without an image encoder."""
    skip = shutil.ignore_patterns("*.safetensors", "image_encoder", "*.bin")
    shutil.copytree(folder, target, ignore=skip)
    index = json.loads((target / "model_index.json").read_text())
    index |= {"image_encoder": [None, None], "feature_extractor": [None, None]}
    (target / "model_index.json").write_text(json.dumps(index))
    return target
