"""Samplers by name, as tables of coefficients.

Sources: diffusers' DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler and
DPMSolverMultistepScheduler. `ddim_karras` and `euler_ancestral_karras` do not exist there: they are
the same formulas over the Karras levels of diffusers' Euler sampler.

Ancestral sampling: diffusers draws noise at every step, also at the last one, where its factor is
0. A row whose `x_noise` is 0 needs none: only a draw after the last step could tell.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ipa.contract.errors import CheckpointError, RequestError
from ipa.contract.schedule import Schedule

from .noise_levels import noise_levels, signal_levels
from .rows import ROWS
from .sampler_config import Family, SamplerConfig

_KARRAS = "_karras"
_FAMILIES: tuple[Family, ...] = ("ddim", "euler", "euler_ancestral", "dpmpp_2m")

NAMES: tuple[str, ...] = tuple(f + suffix for f in _FAMILIES for suffix in ("", _KARRAS))
"""Every sampler's name."""

_IMPLEMENTED: Mapping[str, Family] = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
}
# Samplers of the same kind of model that are not implemented, with the nearest that is: stochastic
# ones take the stochastic one.
_STAND_INS: Mapping[str, Family] = {
    "PNDMScheduler": "dpmpp_2m",
    "LMSDiscreteScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "dpmpp_2m",
    "DEISMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_2m",
    "HeunDiscreteScheduler": "dpmpp_2m",
    "KDPM2DiscreteScheduler": "dpmpp_2m",
    "SASolverScheduler": "dpmpp_2m",
    "DDPMScheduler": "euler_ancestral",
    "DPMSolverSDEScheduler": "euler_ancestral",
    "KDPM2AncestralDiscreteScheduler": "euler_ancestral",
}
_CLASSES_WITH_KARRAS = frozenset(
    {"EulerDiscreteScheduler", "DPMSolverMultistepScheduler"} | _STAND_INS.keys()
) - {"PNDMScheduler", "DDPMScheduler", "KDPM2AncestralDiscreteScheduler"}


def make_schedule(
    name: str | None, config: Mapping[str, Any], num_inference_steps: int
) -> Schedule:
    """The rows of a run.

    Args:
        name: One of `NAMES`; None takes the checkpoint's own. The name decides about Karras levels;
            everything else is read from the config, with the defaults of the class in diffusers.
        config: scheduler_config.json.
        num_inference_steps: Evaluations of the network.

    Raises:
        RequestError: The name is unknown, or the steps do not fit the model.
        CheckpointError: The config asks for something that is not implemented.
    """
    chosen = scheduler_name(config)[0] if name is None else name
    if chosen not in NAMES:
        spelled = str(chosen).lower().replace(" ", "_")
        nearest = difflib.get_close_matches(spelled, NAMES, n=1, cutoff=0.0)
        raise RequestError(
            "this scheduler is not known",
            found=repr(chosen),
            remedy=f"did you mean {nearest[0]!r}? All: {', '.join(NAMES)}",
        )
    sampler = _sampler(chosen, config)
    _check_steps(num_inference_steps, sampler.train_steps)
    noise_scale, steps = ROWS[sampler.family](sampler, num_inference_steps)
    return Schedule(name=chosen, noise_scale=noise_scale, steps=steps)


def training_levels(name: str, config: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """σ of every training timestep, from clean to noisy, for a sampler of `NAMES`; all finite."""
    return noise_levels(signal_levels(_sampler(name, config), finite=True))


def scheduler_name(config: Mapping[str, Any]) -> tuple[str, str | None]:
    """The sampler that a checkpoint names, and a warning if another must stand in for it.

    Raises:
        CheckpointError: The config names no sampler, or one for another kind of model.
    """
    kind = config.get("_class_name")
    family = _IMPLEMENTED.get(str(kind)) or _STAND_INS.get(str(kind))
    if family is None:
        raise CheckpointError(
            "scheduler_config.json names no sampler that is supported",
            found=f"_class_name {kind!r}",
            remedy=f"name one with scheduler=: {', '.join(NAMES)}",
        )
    karras = kind in _CLASSES_WITH_KARRAS and bool(config.get("use_karras_sigmas"))
    name = family + (_KARRAS if karras else "")
    if kind in _IMPLEMENTED:
        return name, None
    return name, (
        f"The checkpoint's own sampler, {kind}, is not implemented: {name} stands in for it, and "
        "pictures differ from those that the checkpoint's own sampler makes."
    )


def pipeline_config(config: Mapping[str, Any], *, is_xl: bool = False) -> dict[str, Any]:
    """A scheduler's config as diffusers' Stable Diffusion 1 and 2 pipelines correct it on loading.

    Their constructors force steps_offset to 1 and clip_sample to false, whatever the file says and
    also where it says nothing (pipeline_stable_diffusion.py); SDXL's pipelines do not.
    """
    return dict(config) if is_xl else {**config, "steps_offset": 1, "clip_sample": False}


def _sampler(name: str, config: Mapping[str, Any]) -> SamplerConfig:
    family = cast(Family, name.removesuffix(_KARRAS))
    return SamplerConfig.from_config(config, family, karras=name.endswith(_KARRAS))


def _check_steps(count: object, train_steps: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= train_steps:
        raise RequestError(
            f"num_inference_steps must be an integer from 1 to {train_steps}, "
            "the steps that the model was trained on",
            found=repr(count),
        )
