"""The families of samplers as data: which class of diffusers each is, and how that reads a config.

Sources: the constructors and `set_timesteps` of diffusers' scheduling_*.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ipa.model.config import Config, Keys

Levels = Literal["training", "karras", "exponential", "beta"]
Family = Literal[
    "ddim",
    "euler",
    "euler_ancestral",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_sde",
    "unipc",
    "deis",
    "sa",
    "heun",
    "kdpm2",
    "kdpm2_ancestral",
    "lms",
    "pndm",
    "ddpm",
    "lcm",
    "tcd",
]

_TRAINING: tuple[Levels, ...] = ("training",)
_KARRAS: tuple[Levels, ...] = ("training", "karras")
_EVERY: tuple[Levels, ...] = ("training", "karras", "exponential", "beta")
_BOUNDED: frozenset[Levels] = frozenset(_EVERY)
_TIMESTEPS = ("timesteps",)
_OFF: tuple[object, ...] = (False, None)

# Defaults that most classes share; each says below what it has of its own.
_COMMON: Config = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "set_alpha_to_one": True,
    "final_sigmas_type": "zero",
    "sigma_min": None,
    "sigma_max": None,
    "solver_order": 2,
    "solver_type": "midpoint",
    "predictor_order": 2,
    "corrector_order": 2,
    "lower_order_final": True,
    "euler_at_final": False,
    "lambda_min_clipped": -math.inf,
    "variance_type": "fixed_small",
    "original_inference_steps": 50,
    "timestep_scaling": 10.0,
}
_OF_ALL = frozenset(
    {
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
    }
)
_SPACED = _OF_ALL | {"timestep_spacing", "steps_offset"}
_RESCALED = _SPACED | {"rescale_betas_zero_snr"}
_CLIP = {"clip_sample", "clip_sample_range"}
_SOLVER = {"final_sigmas_type", "solver_order", "solver_type", "lower_order_final"}
_STABLE_BETAS: Config = {"beta_start": 0.00085, "beta_end": 0.012}
_DISTILLED: Config = {
    **_STABLE_BETAS,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
}
_NO_THRESHOLD = {"thresholding": _OFF}
_SOLVER_FIXED = {**_NO_THRESHOLD, "use_flow_sigmas": _OFF, "use_dynamic_shifting": _OFF}
_DPM_FIXED: Mapping[str, tuple[object, ...]] = {
    **_SOLVER_FIXED,
    "use_lu_lambdas": _OFF,
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    "algorithm_type": ("dpmsolver++", "deis", "sde-dpmsolver++"),
}
# diffusers takes the solver types of UniPC and DEIS for the midpoint rule, and of the others for
# UniPC's second.
_DPM_SOLVERS = {
    "midpoint": "midpoint",
    "heun": "heun",
    "logrho": "midpoint",
    "bh1": "midpoint",
    "bh2": "midpoint",
}
_UNIPC_SOLVERS = {"bh1": "bh1", "bh2": "bh2", "midpoint": "bh2", "heun": "bh2", "logrho": "bh2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerClass:
    """A family of samplers as its class in diffusers reads a config.

    Attributes:
        known: Keys that it reads; others are ignored, as `from_config` does.
        own: Defaults that are not the common ones.
        fixed: Keys that change the result, with the values that are implemented.
        levels: The spacings of noise levels that it has.
        bounded: Those of them in which it heeds sigma_min and sigma_max.
        solvers: What each solver_type stands for.
        max_order: The highest solver_order that is implemented.
        takes_eta: Whether a call's eta means anything to it.
        custom: What a call may name itself instead of a number of steps: "timesteps", "sigmas".
        fractions: Whether such timesteps may lie between those of the training.
    """

    known: frozenset[str]
    own: Config = field(default_factory=dict)
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    levels: tuple[Levels, ...] = _TRAINING
    bounded: frozenset[Levels] = _BOUNDED
    solvers: Mapping[str, str] = field(default_factory=lambda: _DPM_SOLVERS)
    max_order: int = 2
    takes_eta: bool = False
    custom: tuple[str, ...] = ()
    fractions: bool = False

    def read(self, config: Config, levels: Levels) -> dict[str, Any]:
        """The value of every key: the file's if this class reads it, else the default."""
        defaulted = config.get("_use_default_values") or ()
        bounds = levels != "training" and levels in self.bounded
        known = self.known | ({"sigma_min", "sigma_max"} if bounds else frozenset())
        given = {k: v for k, v in config.items() if k in known and k not in defaulted}
        return {**_COMMON, **self.own, **given}


_MULTISTEP = SamplerClass(
    known=_RESCALED | _SOLVER | {"euler_at_final", "lambda_min_clipped"},
    fixed=_DPM_FIXED,
    levels=_EVERY,
    custom=_TIMESTEPS,
)
_SINGLESTEP = SamplerClass(
    known=_OF_ALL | _SOLVER | {"lambda_min_clipped"},
    own={"lower_order_final": False},
    fixed=_DPM_FIXED,
    levels=_EVERY,
    custom=_TIMESTEPS,
)

FAMILIES: Mapping[Family, SamplerClass] = {
    "ddim": SamplerClass(
        known=_RESCALED | _CLIP | {"set_alpha_to_one"},
        own={"timestep_spacing": "leading", "clip_sample": True},
        fixed=_NO_THRESHOLD,
        levels=_KARRAS,
        takes_eta=True,
    ),
    "euler": SamplerClass(
        known=_RESCALED | {"final_sigmas_type"},
        fixed={"interpolation_type": ("linear",), "timestep_type": ("discrete",)},
        levels=_EVERY,
        custom=("timesteps", "sigmas"),
        fractions=True,
    ),
    "euler_ancestral": SamplerClass(known=_RESCALED, levels=_KARRAS),
    "dpmpp_2m": replace(_MULTISTEP, max_order=3),
    "dpmpp_2m_sde": _MULTISTEP,
    "dpmpp_2s": _SINGLESTEP,
    "dpmpp_sde": _SINGLESTEP,
    "unipc": SamplerClass(
        known=_RESCALED | _SOLVER,
        own={"solver_type": "bh2"},
        fixed={
            **_SOLVER_FIXED,
            "predict_x0": (True,),
            "disable_corrector": ([], (), None),
            "solver_p": (None,),
        },
        levels=_EVERY,
        solvers=_UNIPC_SOLVERS,
        max_order=3,
    ),
    "deis": SamplerClass(
        known=_SPACED | {"solver_order", "solver_type", "lower_order_final"},
        own={"solver_type": "logrho", "final_sigmas_type": "sigma_min"},
        fixed={**_SOLVER_FIXED, "algorithm_type": ("deis", "dpmsolver", "dpmsolver++")},
        levels=_EVERY,
        solvers=dict.fromkeys(("logrho", "midpoint", "heun", "bh1", "bh2"), "logrho"),
        max_order=3,
    ),
    "sa": SamplerClass(
        known=_SPACED
        | {"predictor_order", "corrector_order", "lower_order_final", "lambda_min_clipped"},
        own={"final_sigmas_type": "sigma_min"},
        fixed={
            **_NO_THRESHOLD,
            "use_flow_sigmas": _OFF,
            "algorithm_type": ("data_prediction",),
            "tau_func": (None,),
        },
        levels=_EVERY,
    ),
    "heun": SamplerClass(
        known=_SPACED | _CLIP,
        own=_STABLE_BETAS,
        levels=_EVERY,
        custom=_TIMESTEPS,
        fractions=True,
    ),
    "kdpm2": SamplerClass(known=_SPACED, own=_STABLE_BETAS, levels=_EVERY),
    "kdpm2_ancestral": SamplerClass(known=_SPACED, own=_STABLE_BETAS, levels=_EVERY),
    "lms": SamplerClass(
        known=_SPACED, levels=_EVERY, bounded=frozenset[Levels]({"exponential", "beta"})
    ),
    "pndm": SamplerClass(
        known=_SPACED | {"set_alpha_to_one"},
        own={"timestep_spacing": "leading", "set_alpha_to_one": False},
        fixed={"prediction_type": ("epsilon", "v_prediction")},
    ),
    "ddpm": SamplerClass(
        known=_RESCALED | _CLIP | {"variance_type"},
        own={"timestep_spacing": "leading", "clip_sample": True},
        fixed=_NO_THRESHOLD,
        custom=_TIMESTEPS,
    ),
    "lcm": SamplerClass(
        known=_OF_ALL
        | _CLIP
        | {"rescale_betas_zero_snr", "original_inference_steps", "timestep_scaling"},
        own=_DISTILLED,
        fixed=_NO_THRESHOLD,
        custom=_TIMESTEPS,
    ),
    "tcd": SamplerClass(
        known=_OF_ALL | {"rescale_betas_zero_snr", "original_inference_steps"},
        own=_DISTILLED,
        fixed=_NO_THRESHOLD,
        takes_eta=True,
        custom=_TIMESTEPS,
    ),
}
"""All families, by name."""

# Of diffusers' schedulers what no family reads by itself: what only goes with another key that is
# refused, and what names a sampler.
_INERT = frozenset(
    {
        "dynamic_thresholding_ratio",
        "flow_shift",
        "sample_max_value",
        "shift_terminal",
        "skip_prk_steps",
        "time_shift_type",
        "use_beta_sigmas",
        "use_exponential_sigmas",
        "use_karras_sigmas",
    }
)
_KEYS = Keys(
    read=frozenset().union(*(kind.known | kind.fixed.keys() for kind in FAMILIES.values())),
    inert=_INERT | {"sigma_min", "sigma_max"},
)


def unread_scheduler(config: Config, where: str) -> tuple[str, ...]:
    """A warning for every key of scheduler_config.json that is none of any sampler's."""
    return _KEYS.check(config, where)
