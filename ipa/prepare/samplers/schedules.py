"""Schedules: the numbers of every step of a run, for every sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.backend.schedule import Schedule
from ipa.errors import CheckpointError, RequestError, shown
from ipa.request.custom_steps import CustomSteps

from .config import SPACINGS, Levels, SamplerConfig
from .ddim import distilled_on
from .families import FAMILIES
from .names import nearest, own_name
from .noise_levels import noise_levels, signal_levels
from .steps import check_custom, distillation_warnings

NAMES: tuple[str, ...] = tuple(
    family if levels == "training" else f"{family}_{levels}"
    for family, kind in FAMILIES.items()
    for levels in kind.levels
)
"""The names of all samplers."""


_ALL = (
    f"all {len(NAMES)} are in the manual, docs/reference/samplers.md, and in "
    "ipa.prepare.samplers.schedules.NAMES"
)


_BY_CLASS: Mapping[str, str] = {
    kind.made_by: family for family, kind in FAMILIES.items() if kind.made_by is not None
}


_WITH_NOISE: Mapping[str, str] = {
    kind.sde_of: family for family, kind in FAMILIES.items() if kind.sde_of is not None
}


_STAND_INS: Mapping[str, str] = {
    name: family for family, kind in FAMILIES.items() for name in kind.stands_in_for
}


_NO_CUSTOM = CustomSteps()


_FLAGS: Mapping[str, Levels] = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}


_CLIP, _DEFAULTED = "clip_sample", "_use_default_values"


_CLIPS = (
    "{name} cuts latents off at ±{limit:g}, as scheduler_config.json says (clip_sample): if "
    "pictures are flat and grey, set it to false there"
)


_WOULD_CLIP = (
    "{name} does not cut latents off: scheduler_config.json says nothing of clip_sample, for which "
    "diffusers would take its default for pixels, true"
)


def make_schedule(
    name: str | None,
    config: Mapping[str, Any],
    num_inference_steps: int,
    *,
    eta: float = 0.0,
    timestep_spacing: str | None = None,
    begin: int = 0,
    custom: CustomSteps = _NO_CUSTOM,
) -> Schedule:
    """Make the schedule of a run.

    Args:
        name: One of `NAMES`, or as other tools spell it; None takes the checkpoint's own. The name
            decides about Karras, exponential and beta levels, and about noise; everything else is
            read from the config, with the defaults of the class in diffusers.
        config: scheduler_config.json.
        num_inference_steps: As diffusers counts them; see above.
        eta: How much noise DDIM adds, and TCD's γ; 0 is none.
        timestep_spacing: "leading", "linspace" or "trailing" instead of the config's.
        begin: Steps that are left out at the start, of which multistep methods remember nothing:
            a run from a noisy picture, as diffusers' img2img begins one.
        custom: The call's own timesteps or noise levels, which then say how many steps there are.

    Raises:
        RequestError: The name is unknown, or an argument does not fit the sampler or the model.
        CheckpointError: The config asks for something that is not implemented.
    """
    chosen = scheduler_name(config)[0] if name is None else own_name(name, NAMES)
    if chosen not in NAMES:
        raise RequestError(
            "this scheduler is not known",
            found=shown(chosen),
            remedy=f"did you mean {_offered(str(chosen))}? {_ALL[0].upper()}{_ALL[1:]}",
        )
    family, _ = _parts(chosen)
    _check_eta(family, eta)
    if timestep_spacing is not None:
        config = _respaced(family, config, timestep_spacing)
    sampler = _sampler(chosen, config, eta, begin, custom)
    count = num_inference_steps if custom.count is None else custom.count
    _check_steps(count, sampler.train_steps)
    check_custom(chosen, sampler)
    kind = FAMILIES[family]
    noise_scale, steps = kind.rows(sampler, count)
    if not kind.begins_itself:
        steps = steps[begin * kind.evaluations :]
    warnings = distillation_warnings(sampler, distilled_on(sampler)) if kind.distilled else []
    return Schedule(name=chosen, noise_scale=noise_scale, steps=steps, warnings=tuple(warnings))


def _offered(name: str) -> str:
    """The names that are most like one that there is not."""
    *first, last = map(repr, nearest(name, NAMES))
    return f"{', '.join(first)} or {last}"


def training_levels(name: str, config: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """The noise levels σ of all training timesteps, from clean to noisy; all finite."""
    return noise_levels(signal_levels(_sampler(name, config), finite=True))


def scheduler_name(config: Mapping[str, Any]) -> tuple[str, str | None]:
    """The sampler that a checkpoint names, and a warning if another must replace it.

    Raises:
        CheckpointError: The config names no sampler, or one for another kind of model.
    """
    kind = config.get("_class_name")
    family = _BY_CLASS.get(str(kind)) or _STAND_INS.get(str(kind))
    if family is None:
        raise CheckpointError(
            "scheduler_config.json names no sampler that is supported",
            found=f"_class_name {kind!r}",
            remedy=f'name one with scheduler=, such as "euler" or "dpmpp_2m_karras"; {_ALL}',
        )
    if config.get("algorithm_type") == "sde-dpmsolver++":
        family = _WITH_NOISE.get(family, family)
    name = family + _suffix(family, config)
    if kind == "PNDMScheduler" and config.get("skip_prk_steps") is not True:
        kind = f"{kind} with its Runge-Kutta steps (skip_prk_steps)"
    elif kind in _BY_CLASS:
        return name, None
    return name, (
        f"The checkpoint's own sampler, {kind}, is not implemented: {name} stands in for it, and "
        "pictures differ from those that the checkpoint's own sampler makes."
    )


def _suffix(family: str, config: Mapping[str, Any]) -> str:
    """The suffix of a name for the levels that a config asks for, where its class has them."""
    kind = FAMILIES[family]
    if kind.has_level_flags:
        for flag, levels in _FLAGS.items():
            if config.get(flag) and levels in kind.levels:
                return f"_{levels}"
    return ""


def pipeline_config(config: Mapping[str, Any], *, is_xl: bool = False) -> dict[str, Any]:
    """A scheduler's config as diffusers' Stable Diffusion 1 and 2 pipelines correct it on loading.

    Their constructors force steps_offset to 1 and clip_sample to false, whatever the file says and
    also where it says nothing (pipeline_stable_diffusion.py); SDXL's pipelines do not. There the
    default of DDIM and DDPM, made for pixels, would cut latents off at ±1: only a file that says so
    has that here.
    """
    corrected: dict[str, Any] = {} if is_xl else {"steps_offset": 1, _CLIP: False}
    if not _says_clip(config):
        corrected[_CLIP] = False
        corrected[_DEFAULTED] = [k for k in config.get(_DEFAULTED) or () if k != _CLIP]
    return {**config, **corrected}


def clipping_warning(name: str, config: Mapping[str, Any], *, is_xl: bool = False) -> list[str]:
    """A warning where a sampler clips latents, or would in diffusers; see `pipeline_config`."""
    family, _ = _parts(name)
    if not is_xl or _CLIP not in FAMILIES[family].known:
        return []
    if _says_clip(config):
        clips = _sampler(name, config).clip
        return [] if clips is None else [_CLIPS.format(name=name, limit=clips)]
    return [_WOULD_CLIP.format(name=name)] if FAMILIES[family].own.get(_CLIP) else []


def _says_clip(config: Mapping[str, Any]) -> bool:
    return config.get(_CLIP) is not None and _CLIP not in (config.get(_DEFAULTED) or ())


def _parts(name: str) -> tuple[str, Levels]:
    for levels in _FLAGS.values():
        if name.endswith(f"_{levels}"):
            return name.removesuffix(f"_{levels}"), levels
    return name, "training"


def _sampler(
    name: str,
    config: Mapping[str, Any],
    eta: float = 0.0,
    begin: int = 0,
    custom: CustomSteps = _NO_CUSTOM,
) -> SamplerConfig:
    family, levels = _parts(name)
    return SamplerConfig.from_config(
        config, family, FAMILIES[family], levels=levels, eta=eta, begin=begin, custom=custom
    )


def _respaced(family: str, config: Mapping[str, Any], spacing: str) -> dict[str, Any]:
    """A config with another timestep_spacing."""
    if spacing not in SPACINGS:
        raise RequestError(
            "this timestep_spacing is not known",
            found=shown(spacing),
            remedy=f"one of {', '.join(SPACINGS)}",
        )
    if "timestep_spacing" not in FAMILIES[family].known:
        raise RequestError(f"{family} has timesteps of its own, and no timestep_spacing")
    defaulted = [k for k in config.get(_DEFAULTED) or () if k != "timestep_spacing"]
    return {**config, "timestep_spacing": spacing, _DEFAULTED: defaulted}


def _check_eta(family: str, eta: float) -> None:
    takers = [name for name, kind in FAMILIES.items() if kind.takes_eta]
    if eta != 0.0 and family not in takers:
        raise RequestError(
            f"{family} takes no eta", found=f"eta={eta:g}", remedy=f"for {', '.join(takers)} alone"
        )


def _check_steps(count: object, train_steps: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= train_steps:
        raise RequestError(
            f"num_inference_steps must be an integer from 1 to {train_steps}, "
            "the steps that the model was trained on",
            found=shown(count),
        )
