"""The families of samplers as data: a row is all that is told of one beside its own file.

Sources: the constructors and `set_timesteps` of diffusers' scheduling_*.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipa.model.config import Config, Keys

from .config import EVERY_LEVELS, Levels, SamplerClass
from .ddim import ddim, ddpm, lcm, tcd
from .deis import deis
from .dpm_solver import dpmpp_multistep, dpmpp_singlestep
from .euler import euler, euler_ancestral, heun, kdpm2, kdpm2_ancestral, lms
from .pndm import pndm
from .sa_solver import sa
from .unipc import unipc

_KARRAS: tuple[Levels, ...] = ("training", "karras")
_TIMESTEPS = ("timesteps",)
_OFF: tuple[object, ...] = (False, None)

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
_UNIPC_SOLVERS = {"bh1": "bh1", "bh2": "bh2", "midpoint": "bh2", "heun": "bh2", "logrho": "bh2"}
_MULTISTEP = _RESCALED | _SOLVER | {"euler_at_final", "lambda_min_clipped"}
_SINGLESTEP = _OF_ALL | _SOLVER | {"lambda_min_clipped"}

FAMILIES: Mapping[str, SamplerClass] = {
    "ddim": SamplerClass(
        rows=ddim,
        made_by="DDIMScheduler",
        known=_RESCALED | _CLIP | {"set_alpha_to_one"},
        own={"timestep_spacing": "leading", "clip_sample": True},
        fixed=_NO_THRESHOLD,
        levels=_KARRAS,
        takes_eta=True,
        has_level_flags=False,
    ),
    "euler": SamplerClass(
        rows=euler,
        made_by="EulerDiscreteScheduler",
        known=_RESCALED | {"final_sigmas_type"},
        fixed={"interpolation_type": ("linear",), "timestep_type": ("discrete",)},
        levels=EVERY_LEVELS,
        custom=("timesteps", "sigmas"),
        fractions=True,
    ),
    "euler_ancestral": SamplerClass(
        rows=euler_ancestral,
        made_by="EulerAncestralDiscreteScheduler",
        others=("Euler a", "Euler ancestral"),
        known=_RESCALED,
        levels=_KARRAS,
        has_level_flags=False,
    ),
    "dpmpp_2m": SamplerClass(
        rows=dpmpp_multistep,
        made_by="DPMSolverMultistepScheduler",
        others=("DPM++ 2M",),
        known=_MULTISTEP,
        fixed=_DPM_FIXED,
        levels=EVERY_LEVELS,
        truncates_cosine=True,
        max_order=3,
        custom=_TIMESTEPS,
    ),
    "dpmpp_2m_sde": SamplerClass(
        rows=dpmpp_multistep,
        sde_of="dpmpp_2m",
        others=("DPM++ 2M SDE",),
        known=_MULTISTEP,
        fixed=_DPM_FIXED,
        levels=EVERY_LEVELS,
        truncates_cosine=True,
        custom=_TIMESTEPS,
    ),
    "dpmpp_2s": SamplerClass(
        rows=dpmpp_singlestep,
        made_by="DPMSolverSinglestepScheduler",
        others=("DPM++ 2S",),
        known=_SINGLESTEP,
        own={"lower_order_final": False},
        fixed=_DPM_FIXED,
        levels=EVERY_LEVELS,
        custom=_TIMESTEPS,
    ),
    "dpmpp_sde": SamplerClass(
        rows=dpmpp_singlestep,
        sde_of="dpmpp_2s",
        stands_in_for=("DPMSolverSDEScheduler",),
        others=("DPM++ SDE",),
        known=_SINGLESTEP,
        own={"lower_order_final": False},
        fixed=_DPM_FIXED,
        levels=EVERY_LEVELS,
        custom=_TIMESTEPS,
    ),
    "unipc": SamplerClass(
        rows=unipc,
        made_by="UniPCMultistepScheduler",
        others=("UniPC BH2",),
        known=_RESCALED | _SOLVER,
        own={"solver_type": "bh2"},
        fixed={
            **_SOLVER_FIXED,
            "predict_x0": (True,),
            "disable_corrector": ([], (), None),
            "solver_p": (None,),
        },
        levels=EVERY_LEVELS,
        solvers=_UNIPC_SOLVERS,
        max_order=3,
        repeats_last=True,
        begins_itself=True,
    ),
    "deis": SamplerClass(
        rows=deis,
        made_by="DEISMultistepScheduler",
        known=_SPACED | {"solver_order", "solver_type", "lower_order_final"},
        own={"solver_type": "logrho", "final_sigmas_type": "sigma_min"},
        fixed={**_SOLVER_FIXED, "algorithm_type": ("deis", "dpmsolver", "dpmsolver++")},
        levels=EVERY_LEVELS,
        solvers=dict.fromkeys(("logrho", "midpoint", "heun", "bh1", "bh2"), "logrho"),
        max_order=3,
        repeats_last=True,
    ),
    "sa": SamplerClass(
        rows=sa,
        made_by="SASolverScheduler",
        others=("SA-Solver",),
        known=_SPACED
        | {"predictor_order", "corrector_order", "lower_order_final", "lambda_min_clipped"},
        own={"final_sigmas_type": "sigma_min"},
        fixed={
            **_NO_THRESHOLD,
            "use_flow_sigmas": _OFF,
            "algorithm_type": ("data_prediction",),
            "tau_func": (None,),
        },
        levels=EVERY_LEVELS,
        repeats_last=True,
        begins_itself=True,
    ),
    "heun": SamplerClass(
        rows=heun,
        made_by="HeunDiscreteScheduler",
        known=_SPACED | _CLIP,
        own=_STABLE_BETAS,
        levels=EVERY_LEVELS,
        custom=_TIMESTEPS,
        fractions=True,
        evaluations=2,
    ),
    "kdpm2": SamplerClass(
        rows=kdpm2,
        made_by="KDPM2DiscreteScheduler",
        others=("DPM2", "DPM 2"),
        known=_SPACED,
        own=_STABLE_BETAS,
        levels=EVERY_LEVELS,
        rounds_karras=True,
        evaluations=2,
    ),
    "kdpm2_ancestral": SamplerClass(
        rows=kdpm2_ancestral,
        made_by="KDPM2AncestralDiscreteScheduler",
        others=("DPM2 a", "DPM 2 ancestral"),
        known=_SPACED,
        own=_STABLE_BETAS,
        levels=EVERY_LEVELS,
        rounds_karras=True,
        evaluations=2,
    ),
    "lms": SamplerClass(
        rows=lms,
        made_by="LMSDiscreteScheduler",
        known=_SPACED,
        levels=EVERY_LEVELS,
        bounded=frozenset[Levels]({"exponential", "beta"}),
        begins_itself=True,
    ),
    "pndm": SamplerClass(
        rows=pndm,
        made_by="PNDMScheduler",
        others=("PLMS",),
        known=_SPACED | {"set_alpha_to_one"},
        own={"timestep_spacing": "leading", "set_alpha_to_one": False},
        fixed={"prediction_type": ("epsilon", "v_prediction")},
        begins_itself=True,
    ),
    "ddpm": SamplerClass(
        rows=ddpm,
        made_by="DDPMScheduler",
        known=_RESCALED | _CLIP | {"variance_type"},
        own={"timestep_spacing": "leading", "clip_sample": True},
        fixed=_NO_THRESHOLD,
        custom=_TIMESTEPS,
    ),
    "lcm": SamplerClass(
        rows=lcm,
        made_by="LCMScheduler",
        known=_OF_ALL
        | _CLIP
        | {"rescale_betas_zero_snr", "original_inference_steps", "timestep_scaling"},
        own=_DISTILLED,
        fixed=_NO_THRESHOLD,
        custom=_TIMESTEPS,
        distilled=True,
    ),
    "tcd": SamplerClass(
        rows=tcd,
        made_by="TCDScheduler",
        known=_OF_ALL | {"rescale_betas_zero_snr", "original_inference_steps"},
        own=_DISTILLED,
        fixed=_NO_THRESHOLD,
        takes_eta=True,
        custom=_TIMESTEPS,
        distilled=True,
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
