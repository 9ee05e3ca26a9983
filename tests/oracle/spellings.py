"""Models and parts of them under every name that programs have given their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from oracle import models, single_files
from oracle.single_files import Tensors

VAE, UNET, TEXT = "first_stage_model.", "model.diffusion_model.", "cond_stage_model.transformer."
SD15 = models.Tiny(unet=dict(models.FOUR_LEVELS))
SD2 = models.Tiny(
    unet=models.FOUR_LEVELS | {"use_linear_projection": True, "attention_head_dim": (2, 4, 4, 6)},
    text=models.TEXT | {"num_hidden_layers": 23, "hidden_act": "gelu"},
)
SDXL = models.Tiny(unet=dict(models.XL_UNET), second_text=dict(models.SECOND_TEXT))


def renamed(tensors: Tensors, *pairs: tuple[str, str]) -> Tensors:
    """With one text for another in names."""
    found = {}
    for name, tensor in tensors.items():
        for old, new in pairs:
            name = name.replace(old, new)
        found[name] = tensor
    return found


def flat_attention(tensors: Tensors) -> Tensors:
    """The attention of an autoencoder as matrices, not as 1×1 convolutions."""
    return {n: t[:, :, 0, 0] if ".attn_1." in n and t.ndim == 4 else t for n, t in tensors.items()}


def half_renamed(tensors: Tensors) -> Tensors:
    """As diffusers' script of 2023 wrote newer autoencoders."""
    return renamed(
        flat_attention(tensors),
        *((f".attn_1.{part}.", f".attn_1.to_{part}.") for part in "qkv"),
        (".attn_1.proj_out.", ".attn_1.to_out.0."),
    )


def older(tensors: Tensors) -> Tensors:
    """diffusers' own names before 0.17."""
    return renamed(
        tensors,
        (".to_q.", ".query."),
        (".to_k.", ".key."),
        (".to_v.", ".value."),
        (".to_out.0.", ".proj_attn."),
    )


def of_diffusers(folder: Path, part: str, prefix: str) -> Tensors:
    """A component as it lies in the folder, under a prefix."""
    return {prefix + n: t for n, t in single_files.component(folder, part).items()}


def _with(part: str, prefix: str, spell: Callable[[Tensors], Tensors] = dict) -> Any:
    """SD1.5's file with one component in diffusers' names."""

    def make(folder: Path) -> Tensors:
        own = single_files.sd15(folder)
        others = {n: t for n, t in own.items() if not n.startswith(prefix)}
        return others | {
            prefix + n: t for n, t in spell(single_files.component(folder, part)).items()
        }

    return make


def _sd15(spell: Callable[[Tensors], Tensors]) -> Any:
    return lambda folder: spell(single_files.sd15(folder))


def _transposed(folder: Path) -> Tensors:
    """OpenCLIP's projection as a linear layer, as ComfyUI saves it."""
    tensors, name = single_files.sdxl(folder), "conditioner.embedders.1.model.text_projection"
    return tensors | {f"{name}.weight": tensors.pop(name).T.contiguous()}


# By name: the model, and the file in that spelling.
WHOLE: Mapping[str, tuple[models.Tiny, Callable[[Path], Tensors]]] = {
    "sd15": (SD15, single_files.sd15),
    "sd15, VAE's attention as matrices": (SD15, _sd15(flat_attention)),
    "sd15, VAE's attention as to_q": (SD15, _sd15(half_renamed)),
    "sd15, VAE in diffusers' names": (SD15, _with("vae", VAE)),
    "sd15, VAE in diffusers' older names": (SD15, _with("vae", VAE, older)),
    "sd15, UNet in diffusers' names": (SD15, _with("unet", UNET)),
    "sd15, NovelAI's text": (SD15, _sd15(lambda t: renamed(t, (f"{TEXT}text_model.", TEXT)))),
    "sd2": (SD2, single_files.sd2),
    "sd2, by generative-models": (
        SD2,
        lambda folder: single_files.sd2(folder, "conditioner.embedders.0.model."),
    ),
    "sdxl": (SDXL, single_files.sdxl),
    "sdxl, projection as a layer": (SDXL, _transposed),
}
# An autoencoder alone.
LONE: Mapping[str, Callable[[Path], Tensors]] = {
    "original": lambda folder: single_files.vae_tensors(folder, ""),
    "original, under its prefix": single_files.vae_tensors,
    "original, under vae": lambda folder: single_files.vae_tensors(folder, "vae."),
    "original, attention as to_q": lambda f: half_renamed(single_files.vae_tensors(f, "")),
    "diffusers": lambda folder: of_diffusers(folder, "vae", ""),
    "diffusers, older": lambda folder: older(of_diffusers(folder, "vae", "")),
    "diffusers, under vae": lambda folder: of_diffusers(folder, "vae", "vae."),
}
_BESIDE = {"loss": np.float64(0.25), "seen": {1, 2}, "shape": np.arange(3)}


def _saved(nested: bool, beside: Mapping[str, Any], **options: Any) -> Any:
    def save(tensors: Tensors, path: Path) -> Path:
        contents = {"state_dict": tensors, **beside} if nested else tensors
        torch.save(contents, path, **options)
        return path

    return save


def _safe(tensors: Tensors, path: Path) -> Path:
    safetensors.torch.save_file({n: t.clone().contiguous() for n, t in tensors.items()}, path)
    return path


_STREAM = {"_use_new_zipfile_serialization": False}
CONTAINERS: Mapping[str, Callable[[Tensors, Path], Path]] = {
    "safetensors": _safe,
    "zip, state_dict, protocol 3": _saved(True, {}, pickle_protocol=3),
    "zip, protocol 4": _saved(False, {}, pickle_protocol=4),
    "zip, protocol 5, numpy beside": _saved(True, _BESIDE, pickle_protocol=5),
    "zip, numpy beside": _saved(True, _BESIDE),
    "stream": _saved(False, {}, **_STREAM),
    "stream, protocol 4, numpy beside": _saved(True, _BESIDE, pickle_protocol=4, **_STREAM),
}
