"""A scheduler's configuration, read and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from ipa.backend.schedule import MAX_HISTORY, Step
from ipa.errors import CheckpointError, shown
from ipa.model.config import Config
from ipa.request.custom_steps import CustomSteps

Levels = Literal["training", "karras", "exponential", "beta"]


EVERY_LEVELS: tuple[Levels, ...] = ("training", "karras", "exponential", "beta")


Prediction = Literal["epsilon", "v_prediction", "sample"]


Spacing = Literal["leading", "linspace", "trailing"]


_WHERE = "scheduler_config.json"


_MAX_TRAIN_STEPS = 100_000


_PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "original_sample": "sample",
}


SPACINGS: Mapping[str, Spacing] = {s: s for s in ("leading", "linspace", "trailing")}
"""The values of timestep_spacing."""


_BETA_SCHEDULES = {s: s for s in ("linear", "scaled_linear", "squaredcos_cap_v2")}


_FINAL = {s: s for s in ("zero", "sigma_min")}


_VARIANCES: Mapping[str, bool] = {
    "fixed_small": False,
    "fixed_small_log": False,
    "fixed_large": True,
}


_NO_CUSTOM = CustomSteps()


_T = TypeVar("_T")


# Defaults that most classes share; each family says what it has of its own.
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


# diffusers takes the solver types of UniPC and DEIS for the midpoint rule, and of the others for
# UniPC's second.
_DPM_SOLVERS = {
    "midpoint": "midpoint",
    "heun": "heun",
    "logrho": "midpoint",
    "bh1": "midpoint",
    "bh2": "midpoint",
}


Rows: TypeAlias = tuple[float, tuple[Step, ...]]
"""A sampler's output: the factor on the starting noise, and the rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerClass:
    """A family of samplers, as its class in diffusers reads a config and makes steps.

    Attributes:
        rows: Makes its rows and the factor on the starting noise, of a config and a number of
            steps.
        made_by: Its class in diffusers.
        sde_of: The family whose class in diffusers it is too, with noise: its
            algorithm_type "sde-dpmsolver++".
        stands_in_for: Classes of diffusers that are not implemented, to which it is the nearest.
        others: What other tools call it (`names`).
        known: Keys that it reads; others are ignored, as `from_config` does.
        own: Defaults that are not the common ones.
        fixed: Keys that change the result, with the values that are implemented.
        levels: The spacings of noise levels that it has.
        has_level_flags: Whether its class in diffusers has use_karras_sigmas and the like.
        bounded: Those of the spacings in which it heeds sigma_min and sigma_max.
        repeats_last: Whether its last level, where levels are spaced and the run does not end at
            0, is repeated.
        rounds_karras: Whether timesteps of Karras' levels are rounded where they might lie between
            those of the training.
        truncates_cosine: Whether timesteps of Karras' levels are truncated with a cosine schedule,
            not rounded.
        solvers: What each solver_type stands for.
        max_order: The highest solver_order that is implemented.
        takes_eta: Whether a call's eta means anything to it.
        custom: What a call may name itself instead of a number of steps: "timesteps", "sigmas".
        fractions: Whether such timesteps may lie between those of the training.
        evaluations: How often it evaluates the network in a step.
        begins_itself: Whether its rows leave out the first steps of a run that begins later.
        distilled: Whether models for it are distilled on a few timesteps.
    """

    rows: Callable[[SamplerConfig, int], Rows]
    made_by: str | None = None
    sde_of: str | None = None
    stands_in_for: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    known: frozenset[str]
    own: Config = field(default_factory=dict)
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    levels: tuple[Levels, ...] = ("training",)
    has_level_flags: bool = True
    bounded: frozenset[Levels] = frozenset(EVERY_LEVELS)
    repeats_last: bool = False
    rounds_karras: bool = False
    truncates_cosine: bool = False
    solvers: Mapping[str, str] = field(default_factory=lambda: _DPM_SOLVERS)
    max_order: int = 2
    takes_eta: bool = False
    custom: tuple[str, ...] = ()
    fractions: bool = False
    evaluations: int = 1
    begins_itself: bool = False
    distilled: bool = False

    def read(self, config: Config, levels: Levels) -> dict[str, Any]:
        """The value of every key: the file's if this class reads it, else the default."""
        defaulted = config.get("_use_default_values") or ()
        bounds = levels != "training" and levels in self.bounded
        known = self.known | ({"sigma_min", "sigma_max"} if bounds else frozenset())
        given = {k: v for k, v in config.items() if k in known and k not in defaulted}
        return {**_COMMON, **self.own, **given}


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """The config of a sampler; names and meanings are diffusers'."""

    family: str
    kind: SamplerClass
    levels: Levels
    train_steps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    trained_betas: tuple[float, ...] | None
    zero_terminal_snr: bool
    prediction: Prediction
    spacing: Spacing
    steps_offset: int
    clip: float | None
    set_alpha_to_one: bool
    final_sigmas_type: str
    sigma_min: float | None
    sigma_max: float | None
    solver_order: int
    solver_type: str
    predictor_order: int
    corrector_order: int
    lower_order_final: bool
    euler_at_final: bool
    lambda_min_clipped: float
    large_variance: bool
    original_inference_steps: int
    timestep_scaling: float
    eta: float
    begin: int = 0
    custom: CustomSteps = _NO_CUSTOM

    @classmethod
    def from_config(
        cls,
        config: Config,
        family: str,
        kind: SamplerClass,
        *,
        levels: Levels = "training",
        eta: float = 0.0,
        begin: int = 0,
        custom: CustomSteps = _NO_CUSTOM,
    ) -> SamplerConfig:
        """Parse a scheduler's config; the first `begin` steps of a run are left out.

        Raises:
            CheckpointError: A value is not implemented; the key is named.
        """
        _refuse(config, kind.fixed)
        values = kind.read(config, levels)
        train_steps = _integer(values, "num_train_timesteps", 1, _MAX_TRAIN_STEPS)
        return cls(
            family=family,
            kind=kind,
            levels=levels,
            train_steps=train_steps,
            beta_start=_number(values, "beta_start", 0.0, 1.0),
            beta_end=_number(values, "beta_end", 0.0, 1.0),
            beta_schedule=_choice(values, "beta_schedule", _BETA_SCHEDULES),
            trained_betas=_betas(values["trained_betas"], train_steps),
            zero_terminal_snr=_flag(values, "rescale_betas_zero_snr"),
            prediction=_choice(values, "prediction_type", _PREDICTIONS),
            spacing=_choice(values, "timestep_spacing", SPACINGS),
            steps_offset=_integer(values, "steps_offset", 0, train_steps),
            clip=_clip(values),
            set_alpha_to_one=_flag(values, "set_alpha_to_one"),
            final_sigmas_type=_choice(values, "final_sigmas_type", _FINAL),
            sigma_min=_optional_number(values, "sigma_min"),
            sigma_max=_optional_number(values, "sigma_max"),
            solver_order=_integer(values, "solver_order", 1, kind.max_order),
            solver_type=_choice(values, "solver_type", kind.solvers),
            predictor_order=_integer(values, "predictor_order", 1, MAX_HISTORY),
            corrector_order=_integer(values, "corrector_order", 1, MAX_HISTORY),
            lower_order_final=_flag(values, "lower_order_final"),
            euler_at_final=_flag(values, "euler_at_final"),
            lambda_min_clipped=_number(values, "lambda_min_clipped", -math.inf, math.inf),
            large_variance=_large_variance(values),
            original_inference_steps=_integer(values, "original_inference_steps", 1, train_steps),
            timestep_scaling=_number(values, "timestep_scaling", 0.0, math.inf),
            eta=eta,
            begin=begin,
            custom=custom,
        )


def _refuse(config: Config, fixed: Mapping[str, tuple[object, ...]]) -> None:
    for key, implemented in fixed.items():
        if key in config and config[key] not in implemented:
            raise CheckpointError(
                f"{_WHERE}: {key} is not supported with this value",
                found=shown(config[key]),
                remedy=f"implemented: {', '.join(map(repr, implemented))}; "
                "name another sampler with scheduler=",
            )


def _choice(values: Config, key: str, choices: Mapping[str, _T]) -> _T:
    value = values[key]
    if not isinstance(value, str) or value not in choices:
        raise CheckpointError(
            f"{_WHERE}: {key} is not supported with this value",
            found=shown(value),
            remedy=f"implemented: {', '.join(choices)}",
        )
    return choices[value]


def _flag(values: Config, key: str) -> bool:
    value = values[key]
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{_WHERE}: {key} must be true or false", found=shown(value))
    return bool(value)


def _integer(values: Config, key: str, low: int, high: int) -> int:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise CheckpointError(
            f"{_WHERE}: {key} must be an integer from {low} to {high}", found=shown(value)
        )
    return value


def _number(values: Config, key: str, low: float, high: float) -> float:
    value = values[key]
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not low <= value <= high:
        raise CheckpointError(
            f"{_WHERE}: {key} must be a number from {low} to {high}", found=shown(value)
        )
    return float(value)


def _optional_number(values: Config, key: str) -> float | None:
    if values[key] is None:
        return None
    value = _number(values, key, 0.0, math.inf)
    if not 0.0 < value < math.inf:
        raise CheckpointError(f"{_WHERE}: {key} must be above 0", found=shown(value))
    return value


def _clip(values: Config) -> float | None:
    limit = _number(values, "clip_sample_range", 0.0, math.inf)
    return limit if _flag(values, "clip_sample") else None


def _large_variance(values: Config) -> bool:
    """Whether DDPM's variance is the large one; variance_type null is the small one."""
    return values["variance_type"] is not None and _choice(values, "variance_type", _VARIANCES)


def _betas(value: object, train_steps: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != train_steps:
        raise CheckpointError(
            f"{_WHERE}: trained_betas must have one entry per training step",
            found=f"{len(value) if isinstance(value, (list, tuple)) else type(value).__name__}, "
            f"needed {train_steps}",
        )
    return tuple(_number({"trained_betas": b}, "trained_betas", 0.0, 1.0) for b in value)


def estimate(prediction: Prediction, alpha: float, sigma: float) -> tuple[float, float]:
    """The factors on x = α x₀ + σ ε and on the output that give the estimate of x₀."""
    if prediction == "epsilon":
        return 1.0 / alpha, -sigma / alpha
    return (alpha, -sigma) if prediction == "v_prediction" else (0.0, 1.0)


def noise_estimate(prediction: Prediction, alpha: float, sigma: float) -> tuple[float, float]:
    """The factors on x and on the output that give the estimate of ε, if α² + σ² = 1."""
    if prediction == "epsilon":
        return 0.0, 1.0
    return (sigma, alpha) if prediction == "v_prediction" else (1.0 / sigma, -alpha / sigma)
