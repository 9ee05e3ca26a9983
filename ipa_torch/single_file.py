"""Models that are one file, read by diffusers' own single-file loaders with local configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ipa.contract.errors import BackendError, CheckpointError
from ipa.contract.files import container
from ipa.contract.model import ModelFolder, OtherVae, SingleFile

from .loading import (
    MALFORMED,
    check_finite,
    load_component,
    quiet,
    reason,
    require_weights,
)

_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
}
_IDLE = "first_stage_model.loss."  # of the VAE's training
_VAE_PREFIXES = ("first_stage_model.", "vae.")  # of a VAE that was saved as it lies in a model
_IDLE_IN_VAE = ("loss.", "model_ema.")
_XL_TEXTS: Mapping[str, tuple[Any, str]] = {
    "text_encoder": (CLIPTextModel, "conditioner.embedders.0."),
    "text_encoder_2": (CLIPTextModelWithProjection, "conditioner.embedders.1."),
}
_IDLE_IN_TEXTS = ("logit_scale", "position_ids")  # of CLIP's training, and a table 0, 1, 2, …


def load_single_file(
    model: ModelFolder, file: SingleFile, dtype: torch.dtype
) -> dict[str, torch.nn.Module]:
    """UNet, VAE and text encoders of a single file.

    Raises:
        BackendError: Averaged weights are asked for.
        CheckpointError: Tensors are missing, left over, misshapen or not finite.
    """
    if file.ema:
        raise BackendError(
            "the torch backend does not read averaged (EMA) weights of a single file",
            remedy="convert it first: ipa-mlx convert FILE FOLDER --ema --to diffusers",
        )
    require_weights(file.path)
    try:
        with quiet():
            checkpoint = _read(file.path)
            parts = {
                name: _module(kind, name, checkpoint, model, file, dtype)
                for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))
                if name == "unet" or model.other_vae is None
            }
            parts |= _texts(checkpoint, model, dtype)
    except (OSError, *MALFORMED, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(
            f"{file.path} cannot be loaded by diffusers",
            found=reason(error),
            remedy="convert it first (ipa-mlx convert FILE FOLDER --to diffusers) and see what is "
            "wrong with it",
        ) from error
    for name, module in parts.items():
        _check(name, module, file.path)
    return {
        name: module.eval().requires_grad_(requires_grad=False) for name, module in parts.items()
    }


def _read(path: Path) -> dict[str, torch.Tensor]:
    """All tensors, by what the file is and not by its name, as diffusers' own function goes."""
    if container(path) == "safetensors":
        return load_file(path)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return dict(state.get("state_dict", state))


def _module(
    kind: Any,
    name: str,
    checkpoint: dict[str, torch.Tensor],
    model: ModelFolder,
    file: SingleFile,
    dtype: torch.dtype,
) -> torch.nn.Module:
    """A module of diffusers, whose loader passes over unknown names: they are counted here."""
    given = sum(key.startswith(_PREFIXES[name]) and not key.startswith(_IDLE) for key in checkpoint)
    if not given:
        raise CheckpointError(
            f"{file.path} does not hold a whole model",
            found=f"no tensors of {name}",
            remedy="use a file that is not pruned of them; a VAE may be given beside it, with vae=",
        )
    changes = file.changes.get(f"{name}/config.json", {})
    module: torch.nn.Module = kind.from_single_file(
        dict(checkpoint), config=str(model.path), subfolder=name, torch_dtype=dtype, **changes
    )
    _require_count(name, given, module, str(file.path))
    return module


def _texts(
    checkpoint: dict[str, torch.Tensor], model: ModelFolder, dtype: torch.dtype
) -> dict[str, torch.nn.Module]:
    if not model.is_xl:
        return {"text_encoder": _text(CLIPTextModel, "text_encoder", checkpoint, model, dtype)}
    parts = {}
    for name, (kind, prefix) in _XL_TEXTS.items():
        parts[name] = _text(kind, name, checkpoint, model, dtype)
        own = [k for k in checkpoint if k.startswith(prefix) and not k.endswith(_IDLE_IN_TEXTS)]
        given = sum(3 if ".in_proj_" in key else 1 for key in own)  # OpenCLIP's q, k, v are one
        _require_count(name, given, parts[name], model.name)
    return parts


def _text(
    kind: Any,
    name: str,
    checkpoint: dict[str, torch.Tensor],
    model: ModelFolder,
    dtype: torch.dtype,
) -> torch.nn.Module:
    module: torch.nn.Module = create_diffusers_clip_model_from_ldm(
        kind,
        checkpoint,
        subfolder=name,
        config=str(model.path),
        torch_dtype=dtype,
        local_files_only=True,
    )
    return module


def _require_count(name: str, given: int, module: torch.nn.Module, where: str) -> None:
    """The loaders pass over names that they do not know."""
    if given != len(module.state_dict()):
        raise CheckpointError(
            f"{where} does not fit its configs",
            found=f"{given} tensors of the {name}, {len(module.state_dict())} needed",
            remedy="it is damaged, pruned, or of another family",
        )


def _check(name: str, module: torch.nn.Module, path: Path) -> None:
    absent = [key for key, tensor in module.state_dict().items() if tensor.is_meta]
    if absent:
        raise CheckpointError(
            f"{path} lacks {len(absent)} tensors of the {name}",
            found=f"no {absent[0]}",
            remedy="it is damaged or pruned: download it again",
        )
    check_finite(module.state_dict(), f"{path}: {name}")


def load_vae(model: ModelFolder, other: OtherVae, dtype: torch.dtype) -> torch.nn.Module:
    """A VAE in place of the model's own, from its folder or from a file, in any spelling.

    Raises:
        CheckpointError: Tensors are missing, left over, misshapen or not finite.
    """
    if other.path.is_dir():
        return load_component(AutoencoderKL, "vae", other.path, dtype, None)
    require_weights(other.path)
    file = model.single_file
    changes = file.changes.get("vae/config.json", {}) if file else {}
    try:
        with quiet():
            own = _vae_tensors(_read(other.path))
            module: torch.nn.Module = AutoencoderKL.from_single_file(
                dict(own), config=str(model.path), subfolder="vae", torch_dtype=dtype, **changes
            )
    except (OSError, *MALFORMED, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(
            f"{other.path} cannot be loaded as a VAE",
            found=reason(error),
            remedy=f"a VAE with {model.vae.latent_channels} latent channels, of the widths "
            f"{model.vae.channels}, is needed",
        ) from error
    _require_count("vae", len(own), module, str(other.path))
    _check("vae", module, other.path)
    return module.eval().requires_grad_(requires_grad=False)


def _vae_tensors(checkpoint: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of the VAE in a file, without their prefix if it has one."""
    prefix = next((p for p in _VAE_PREFIXES if any(k.startswith(p) for k in checkpoint)), "")
    own = {k.removeprefix(prefix): v for k, v in checkpoint.items() if k.startswith(prefix)}
    return {key: value for key, value in own.items() if not key.startswith(_IDLE_IN_VAE)}
