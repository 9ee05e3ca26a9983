"""The families' formulas: from a config and a number of steps to rows, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .deis_rows import deis
from .estimate import Rows
from .plms_rows import pndm
from .sa_rows import sa
from .sampler_classes import Family
from .sampler_config import SamplerConfig
from .sigma_rows import euler, euler_ancestral, heun, kdpm2, kdpm2_ancestral, lms
from .signal_rows import ddim, ddpm, lcm, tcd
from .solver_rows import dpmpp_multistep, dpmpp_singlestep
from .unipc_rows import unipc

ROWS: Mapping[Family, Callable[[SamplerConfig, int], Rows]] = {
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "dpmpp_2m": dpmpp_multistep,
    "dpmpp_2m_sde": dpmpp_multistep,
    "dpmpp_2s": dpmpp_singlestep,
    "dpmpp_sde": dpmpp_singlestep,
    "unipc": unipc,
    "deis": deis,
    "sa": sa,
    "heun": heun,
    "kdpm2": kdpm2,
    "kdpm2_ancestral": kdpm2_ancestral,
    "lms": lms,
    "pndm": pndm,
    "ddpm": ddpm,
    "lcm": lcm,
    "tcd": tcd,
}
"""Each family's rows: the factor on the starting noise, and the steps."""
