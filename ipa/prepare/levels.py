"""Which noise levels a run visits, and the timesteps that the network is told for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .level_spacings import spaced_levels
from .noise_levels import noise_levels, signal_levels, timesteps_of
from .sampler_config import SamplerConfig
from .timesteps import spaced, spaced_multistep

Double = npt.NDArray[np.float64]

# Families whose last level, where levels are spaced and the run does not end at 0, is repeated.
_REPEATING = frozenset({"unipc", "deis", "sa"})


def euler_levels(config: SamplerConfig, count: int) -> tuple[Double, Double]:
    """Timesteps, and one more level than that: the last is 0 or σ_min."""
    table = noise_levels(signal_levels(config, finite=True))
    if config.custom.sigmas is not None:
        # diffusers takes the logarithms of these in float32.
        levels = np.array(config.custom.sigmas, np.float32)
        told = timesteps_of(levels[:-1], table).astype(np.float32)
        return told.astype(np.float64), levels.astype(np.float64)
    # The fractions of linspace are kept, in float32.
    timesteps = spaced(config, count).astype(np.float32).astype(np.float64)
    sigmas = np.interp(timesteps, np.arange(len(table)), table)
    if config.levels != "training":
        sigmas = spaced_levels(float(sigmas[0]), float(sigmas[-1]), len(sigmas), config)
        timesteps = timesteps_of(sigmas, table).astype(np.float32).astype(np.float64)
        if config.family in {"kdpm2", "kdpm2_ancestral"} and config.levels == "karras":
            timesteps = np.round(timesteps)
    return timesteps, _with_final(sigmas, float(table[0]), config)


def multistep_levels(config: SamplerConfig, count: int) -> tuple[Double, Double]:
    """As `euler_levels`, with the spacing and the whole steps of diffusers' DPM-Solver++."""
    signal = signal_levels(config, finite=True)
    table = noise_levels(signal)
    timesteps = spaced_multistep(config, count, signal)
    sigmas = np.interp(timesteps, np.arange(len(table)), table)
    lowest = float(table[0])
    if config.levels != "training":
        sigmas = spaced_levels(float(table[-1]), lowest, count, config)
        exact = timesteps_of(sigmas, table)
        timesteps = np.round(exact) if _rounds(config) else np.trunc(exact)
        if config.family in _REPEATING:
            lowest = float(sigmas[-1])
    return timesteps, _with_final(sigmas, lowest, config)


def triples(timesteps: Double, sigmas: Double) -> list[tuple[float, float, float]]:
    """(timestep, level, level after it) of every step."""
    following = sigmas[1:].tolist()
    return list(zip(timesteps.tolist(), sigmas[:-1].tolist(), following, strict=True))


def distinct(nodes: Double) -> Double:
    """Levels up to the first that repeats: no polynomial goes through two values at one level."""
    same = np.flatnonzero(np.diff(nodes) == 0.0)
    return nodes[: same[0] + 1] if same.size else nodes


def _rounds(config: SamplerConfig) -> bool:
    """Whether timesteps of spaced levels are rounded before diffusers makes integers of them."""
    cosine = config.beta_schedule == "squaredcos_cap_v2"
    keeps = config.family in {"dpmpp_2m", "dpmpp_2m_sde"} and cosine
    return config.levels == "karras" and not keeps


def _with_final(sigmas: Double, lowest: float, config: SamplerConfig) -> Double:
    final = lowest if config.final_sigmas_type == "sigma_min" else 0.0
    return np.append(sigmas, final).astype(np.float32).astype(np.float64)
