"""Which base model a single file is of, and what its markers say of how it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ipa.errors import CheckpointError

from ..containers.checkpoint import Checkpoint, open_file
from ..containers.dtypes import Array
from ..containers.values import cast
from .single_file import UNET, is_single_file

PredictionType = Literal["epsilon", "v_prediction"]
PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "v_prediction")

# (width of the context, of what is added to the time or 0): the base, or what else it is.
_BASES: Mapping[tuple[int, int], str] = {(768, 0): "sd15", (1024, 0): "sd2", (2048, 2816): "sdxl"}
_OTHERS: Mapping[tuple[int, int], str] = {
    (1280, 2560): "the SDXL refiner",
    (1024, 1536): "Stable Diffusion 2 unCLIP",
    (1024, 2048): "Stable Diffusion 2 unCLIP",
}
# Names that change what the network or the sampler computes, in ways that nobody here implements.
_REFUSED: Mapping[str, str] = {
    "edm_mean": "Playground 2.5",
    "edm_std": "Playground 2.5",
    "edm_vpred.sigma_max": "CosXL",
    "edm_vpred.sigma_min": "CosXL",
    "scaled_fp8": "in float8 with scales of its own, which nobody here applies",
    f"{UNET}time_embed.cond_proj.weight": "a distilled UNet (LCM) that takes the guidance scale",
    "time_embed.cond_proj.weight": "a distilled UNet (LCM) that takes the guidance scale",
    "time_embedding.cond_proj.weight": "a distilled UNet (LCM) that takes the guidance scale",
}
_INPUTS: Mapping[int, str] = {
    5: "a depth model",
    7: "an upscaler",
    8: "an editing model (instruct-pix2pix)",
}
_PLAIN, _INPAINTING = 4, 9  # input channels
_FIRST = (".input_blocks.0.0.weight", ".conv_in.weight")
_ADDED = (".label_emb.0.0.weight", ".add_embedding.linear_1.weight")
_WORDS: Mapping[str, str] = {"sd15": "SD1.5", "sd2": "SD2", "sdxl": "SDXL"}
_LAST_NORM = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
_V_SPREAD = 0.09  # of its values: the rule that ComfyUI tells Stable Diffusion 2's two kinds by
# The models of 768 pixels predict v; 2.1's own config wants float32 scores of attention.
_LARGE_SD2 = {"upcast_attention": True, "sample_size": 96}
_INDEX = "model_index.json"
_SCHEDULER, _UNET_CONFIG = "scheduler/scheduler_config.json", "unet/config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognised:
    """What a single file is.

    Attributes:
        base: "sd15", "sd2" or "sdxl"; None where a config was given and no known base fits.
        changes: What differs from the base's configs, by their path.
        notes: What was decided and how, where the file does not tell.
    """

    base: str | None
    changes: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]


def recognise(
    path: Path, *, prediction_type: PredictionType | None = None, configured: bool = False
) -> Recognised:
    """Tell a single file's base from shapes and markers.

    Args:
        path: A file with a whole model.
        prediction_type: What its UNet predicts, if the caller knows.
        configured: The caller has configs of its own: a base that is not known will do.

    Raises:
        CheckpointError: It is no whole model, or of a family that is not supported.
    """
    checkpoint = open_file(path)
    if not is_single_file(checkpoint):
        raise CheckpointError(
            f"{path} does not hold a whole model",
            found=f"tensors such as {', '.join(sorted(checkpoint)[:3])}",
            remedy="`ipa-mlx inspect` says what it is; a model needs UNet, VAE and text encoder",
        )
    _refuse(checkpoint)
    base, inputs = _base(checkpoint, configured=configured), _input_channels(checkpoint)
    scheduler, note = _prediction(checkpoint, base, prediction_type)
    unet: dict[str, Any] = {} if inputs == _PLAIN else {"in_channels": inputs}
    if base == "sd2" and scheduler.get("prediction_type") == "v_prediction":
        unet |= _LARGE_SD2
    changes = {_UNET_CONFIG: unet, _SCHEDULER: scheduler, _INDEX: _in_index(scheduler)}
    changes = {path: values for path, values in changes.items() if values}
    return Recognised(base=base, changes=changes, notes=(note,) if note else ())


def recognise_unet(path: Path) -> Recognised:
    """Tell the base of a file with a UNet alone; nothing in it tells the sampler.

    Raises:
        CheckpointError: Its family is not supported.
    """
    checkpoint = open_file(path)
    _refuse(checkpoint)
    base, inputs = _base(checkpoint, configured=False), _input_channels(checkpoint)
    changes = {_UNET_CONFIG: {"in_channels": inputs}} if inputs != _PLAIN else {}
    return Recognised(base=base, changes=changes, notes=())


def base_of(checkpoint: Checkpoint) -> str:
    """The base model of a UNet or a whole model, in words; "" for one that is not known."""
    return _WORDS.get(_BASES.get(_widths(checkpoint), ""), "")


def other_kind(checkpoint: Checkpoint) -> str:
    """Another kind of UNet than ours, in words, by its marks or widths; "" for none."""
    marked = next((what for name, what in _REFUSED.items() if name in checkpoint), "")
    return marked or _OTHERS.get(_widths(checkpoint), "")


def context_width(checkpoint: Checkpoint) -> int:
    """The width of the text states that the UNet's cross-attentions take; 0 if it has none."""
    return _size(checkpoint, (".attn2.to_k.weight",), 1)


def input_channels(checkpoint: Checkpoint) -> int:
    """The channels that the UNet takes; 0 if its first layer is missing."""
    return _size(checkpoint, _FIRST, 3 if checkpoint.converted else 1)


def _refuse(checkpoint: Checkpoint) -> None:
    for name, what in _REFUSED.items():
        if name in checkpoint:
            raise CheckpointError(
                f"{checkpoint.where} is {what}",
                found=name,
                remedy="this version does not support it",
            )


def _widths(checkpoint: Checkpoint) -> tuple[int, int]:
    """The widths of the context, and of what is added to the time embedding."""
    return context_width(checkpoint), _size(checkpoint, _ADDED, 1)


def _base(checkpoint: Checkpoint, *, configured: bool) -> str | None:
    context, added = _widths(checkpoint)
    base = _BASES.get((context, added))
    if base is None and not configured:
        other = _OTHERS.get((context, added), "of no base model that this version knows")
        raise CheckpointError(
            f"{checkpoint.where} is {other}",
            found=f"context width {context}"
            + (f", {added} added to the time embedding" if added else ""),
            remedy="Stable Diffusion 1.x (768), 2.x (1024) and XL (2048) are supported; for "
            "another one of their kind give a folder with its configs",
        )
    return base


def _input_channels(checkpoint: Checkpoint) -> int:
    inputs = input_channels(checkpoint)
    if inputs not in {_PLAIN, _INPAINTING}:
        raise CheckpointError(
            f"{checkpoint.where} is {_INPUTS.get(inputs, 'of a kind that is not supported')}",
            found=f"a UNet with {inputs} input channels",
            remedy=f"plain ({_PLAIN}) and inpainting ({_INPAINTING}) UNets are supported",
        )
    return inputs


def _prediction(
    checkpoint: Checkpoint, base: str | None, given: PredictionType | None
) -> tuple[dict[str, Any], str]:
    """Changes to the scheduler's config for how a file was trained, and a note on the decision."""
    if given is not None and given not in PREDICTION_TYPES:
        raise CheckpointError(
            "unknown prediction type", found=repr(given), remedy=", ".join(PREDICTION_TYPES)
        )
    changes: dict[str, Any] = {}
    if "ztsnr" in checkpoint:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if given is None and "v_pred" in checkpoint:
        return changes | {"prediction_type": "v_prediction"}, ""
    if given is None and base == "sd2":
        spread = _spread(checkpoint)
        given = "v_prediction" if spread > _V_SPREAD else "epsilon"
        note = (
            f"taken for a model that predicts {given}, by the spread {spread:.3f} of one norm "
            f"(above {_V_SPREAD}: v_prediction): give prediction_type if pictures are noise"
        )
    else:
        note = ""
    if given == "v_prediction":
        changes |= {"prediction_type": given}
        changes |= {"_class_name": "DDIMScheduler"} if base == "sd2" else {}
    return changes, note


def _in_index(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's entry of model_index.json, if its config names a class."""
    name = scheduler.get("_class_name")
    return {"scheduler": ["diffusers", name]} if name else {}


def _spread(checkpoint: Checkpoint) -> float:
    """The standard deviation of a norm's weights, which tells v-prediction; 0 if it is missing."""
    stored = checkpoint.get(_LAST_NORM)
    if stored is None or stored.dtype not in {"F32", "F16", "BF16"}:
        return 0.0
    values: Array = cast(stored.array(), stored.dtype, "F32", stored.name)
    return float(np.std(values))


def _size(checkpoint: Checkpoint, endings: tuple[str, ...], axis: int) -> int:
    """One side of the UNet's first tensor with such a name; 0 if there is none."""
    alone = not any(name.startswith(UNET) for name in checkpoint)
    for name, stored in checkpoint.items():
        if (
            (alone or name.startswith(UNET))
            and f".{name}".endswith(endings)
            and len(stored.shape) > axis
        ):
            return checkpoint.whole_shape(name)[axis]
    return 0
