"""Models that are one file: named by diffusers' own conversions, with nothing left over in silence.

What lies in no network of Stable Diffusion (a training's schedule and averages, a ControlNet, marks
of other programs) is left out, and told. What lies in one and is not known refuses the file, unless
the caller lets go of it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ipa.errors import BackendError, CheckpointError
from ipa.model.folder import ModelFolder, OtherVae, SingleFile
from ipa.model.ignoring import REMEDY
from ipa.watching import watch

from .spellings import Spelling, text_spelling, unet_spelling, vae_spelling
from .weights import (
    MALFORMED,
    Account,
    check_finite,
    load_component,
    quiet,
    read_file,
    reason,
    require_weights,
)

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_VAE_PREFIXES = (_VAE, "vae.")  # of a VAE that was saved as it lies in a model
# Where text encoders lie.
_TEXTS: Mapping[str, str] = {
    "cond_stage_model.transformer.": "text_encoder",
    "cond_stage_model.model.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
    "conditioner.embedders.0.model.": "text_encoder",
    "conditioner.embedders.1.model.": "text_encoder_2",
}
# Where diffusers' loader looks for them, by how they are named.
_TRANSFORMERS = "cond_stage_model.transformer."
_OPEN_CLIP: Mapping[str, str] = {
    "text_encoder": "cond_stage_model.model.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
_TEXT_KINDS: Mapping[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
_SHOWN = 3


def load_single_file(
    model: ModelFolder, file: SingleFile, dtype: torch.dtype, account: Account
) -> dict[str, torch.nn.Module]:
    """Load UNet, VAE and text encoders of a single file; the account notes what is left out.

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
            reader = _Reader(file.path, model, dtype, account)
            reader.refuse_more()
            readers: dict[str, Callable[[], torch.nn.Module]] = {"unet": reader.unet}
            if model.other_vae is None:
                readers["vae"] = reader.vae
            texts = [name for name in _TEXT_KINDS if _has(model, name)]
            readers |= {name: partial(reader.text, name) for name in texts}
            parts = {name: _told(read) for name, read in readers.items()}
    except (OSError, *MALFORMED, SafetensorError) as error:
        raise CheckpointError(
            f"{file.path} cannot be loaded by diffusers",
            found=reason(error),
            remedy="convert it first (ipa-mlx convert FILE FOLDER --to diffusers) and see what is "
            "wrong with it",
        ) from error
    for name, module in parts.items():
        _check(name, module, file.path)
    reader.leave_the_rest()
    return {n: module.eval().requires_grad_(requires_grad=False) for n, module in parts.items()}


def _told(read: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    found = read()
    watch().advance("load", 1, "parts")
    return found


def _has(model: ModelFolder, name: str) -> bool:
    return name == "text_encoder" or model.is_xl


class _Reader:
    """Takes the networks out of a file, and notes what it has seen of them."""

    def __init__(
        self, path: Path, model: ModelFolder, dtype: torch.dtype, account: Account
    ) -> None:
        self._checkpoint, self._where = read_file(path), str(path)
        self._model, self._dtype, self._account = model, dtype, account
        self._seen: set[str] = set()
        account.names += self._checkpoint

    def unet(self) -> torch.nn.Module:
        """Load the UNet."""
        return self._module(UNet2DConditionModel, "unet", _UNET, unet_spelling)

    def vae(self) -> torch.nn.Module:
        """Load the autoencoder of a whole model."""
        return self._module(AutoencoderKL, "vae", _VAE, vae_spelling)

    def lone_vae(self) -> torch.nn.Module:
        """Load the autoencoder of a file that holds nothing else, or a whole model."""
        if self._lies(_UNET):
            return self.vae()
        prefix = next(filter(self._lies, _VAE_PREFIXES), "")
        return self._module(AutoencoderKL, "vae", prefix, vae_spelling, alone=True)

    def _module(
        self,
        kind: Any,
        name: str,
        prefix: str,
        spell: Callable[..., Spelling],
        *,
        alone: bool = False,
    ) -> torch.nn.Module:
        given = self._given(name, "" if alone else prefix)
        file = self._model.single_file
        changes = file.changes.get(f"{name}/config.json", {}) if file else {}
        config = kind.load_config(str(self._model.path), subfolder=name)
        with torch.device("meta"):
            module: torch.nn.Module = kind.from_config({**config, **changes})
        needed = module.state_dict()
        spelling = spell(given, prefix, needed.keys(), module.config)
        self._settle(name, spelling)
        state = {
            key: self._fitted(self._checkpoint[stored], needed[key].shape)
            for key, stored in spelling.names.items()
        }
        module.load_state_dict(state, strict=True, assign=True)
        return module

    def _fitted(self, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Tensors in the precision to compute in; a 1×1 convolution may be stored for a matrix."""
        ones = [n for n in (*tensor.shape[2:], *shape[2:]) if n != 1]
        if tensor.shape != shape and tensor.shape[:2] == shape[:2] and not ones:
            tensor = tensor.reshape(shape)
        return tensor.to(self._dtype)

    def text(self, name: str) -> torch.nn.Module:
        """Load a text encoder, which diffusers' loader finds by its prefix."""
        places = tuple(place for place, part in _TEXTS.items() if part == name)
        given = self._given(name, *places)
        prefix = next(filter(self._lies, places))  # what lies in another one is left over
        kind = _TEXT_KINDS[name]
        config = kind.config_class.from_pretrained(
            str(self._model.path), subfolder=name, local_files_only=True
        )
        with torch.device("meta"):
            keys = kind(config).state_dict().keys()
        spelling = text_spelling(given, prefix, keys)
        self._settle(name, spelling)
        state = {bare: self._checkpoint[stored] for bare, stored in spelling.names.items()}
        in_open_clip = "token_embedding.weight" in state
        if in_open_clip and "text_projection.weight" in state:
            # OpenCLIP's projection as a linear layer, as ComfyUI saves it.
            state["text_projection"] = state.pop("text_projection.weight").T
        root = _OPEN_CLIP[name] if in_open_clip else _TRANSFORMERS
        state = {root + bare: tensor for bare, tensor in state.items()}
        module: torch.nn.Module = create_diffusers_clip_model_from_ldm(
            kind,
            state,
            subfolder=name,
            config=str(self._model.path),
            torch_dtype=self._dtype,
            local_files_only=True,
        )
        return module

    def refuse_more(self) -> None:
        """Raise CheckpointError for a text encoder that the model has not."""
        spare = sorted({n for p, n in _TEXTS.items() if self._lies(p) and not _has(self._model, n)})
        if spare:
            raise CheckpointError(
                f"{self._where} holds more than the model's configs say",
                found=f"tensors of {', '.join(spare)}",
                remedy="file and configs must be of one model",
            )

    def leave_the_rest(self) -> None:
        """Note all of the file that is in none of the networks that were taken."""
        others = (_VAE,) if self._model.other_vae is not None else ()
        self._account.gone += [
            name
            for name in self._checkpoint
            if name not in self._seen and not name.startswith(others)
        ]

    def _lies(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self._checkpoint)

    def _given(self, name: str, *prefixes: str) -> list[str]:
        given = [key for key in self._checkpoint if key.startswith(prefixes)]
        if not given:
            raise CheckpointError(
                f"{self._where} does not hold a whole model",
                found=f"no tensors of {name}",
                remedy="use a file that is not pruned of them; a VAE may be given beside it, with "
                "vae=",
            )
        self._seen |= set(given)
        return given

    def _settle(self, name: str, spelling: Spelling) -> None:
        """Note what is left out; raise CheckpointError for unknown or missing tensors."""
        ignored = [key for key in spelling.surplus if self._account.ignore.matches(key)]
        surplus = [key for key in spelling.surplus if key not in ignored]
        self._account.gone += [*spelling.idle, *ignored]
        rows = {"missing": spelling.missing, "left over": surplus}
        found = [
            f"{len(keys)} {kind}: {', '.join(sorted(keys)[:_SHOWN])}"
            for kind, keys in rows.items()
            if keys
        ]
        if found:
            raise CheckpointError(
                f"{self._where} does not fit its configs as {name}",
                found="; ".join(found),
                remedy=f"it is damaged, pruned, or of another family; {REMEDY}",
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


def load_vae(
    model: ModelFolder, other: OtherVae, dtype: torch.dtype, account: Account
) -> torch.nn.Module:
    """Load a VAE in place of the model's own, from its folder or from a file, in any spelling.

    Raises:
        CheckpointError: Tensors are missing, left over, misshapen or not finite.
    """
    if other.path.is_dir():
        return load_component(AutoencoderKL, "vae", other.path, dtype, None, account)
    require_weights(other.path)
    try:
        with quiet():
            module = _Reader(other.path, model, dtype, account).lone_vae()
    except (OSError, *MALFORMED, SafetensorError) as error:
        raise CheckpointError(
            f"{other.path} cannot be loaded as a VAE",
            found=reason(error),
            remedy=f"a VAE with {model.vae.latent_channels} latent channels, of the widths "
            f"{model.vae.channels}, is needed",
        ) from error
    _check("vae", module, other.path)
    return module.eval().requires_grad_(requires_grad=False)
