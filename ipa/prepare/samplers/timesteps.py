"""The timesteps of a run, and noise levels between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.arrays import Doubles
from ipa.errors import RequestError

from .config import SamplerConfig
from .noise_levels import noise_levels, signal_levels, spaced_levels, timesteps_of

Real = npt.NDArray[np.floating[Any]]


def spaced(config: SamplerConfig, count: int) -> Doubles:
    """Timesteps of DDIM and of the Euler samplers, from noisy to clean; linspace has fractions."""
    if config.custom.timesteps is not None:
        return np.array(config.custom.timesteps)
    total = config.train_steps
    steps: Real
    if config.spacing == "linspace":
        steps = np.linspace(0, total - 1, count, dtype=np.float64)[::-1]
    elif config.spacing == "leading":
        steps = np.arange(count)[::-1] * float(total // count) + config.steps_offset
    else:
        steps = _trailing(total, total / count, count)
    return _checked(steps, config, count)


def spaced_multistep(config: SamplerConfig, count: int, signal: npt.NDArray[np.float32]) -> Doubles:
    """Timesteps of DPM-Solver++: whole ones, of which the cleanest is left out."""
    if config.custom.timesteps is not None:
        return np.array(config.custom.timesteps)
    last = config.train_steps - _clipped(config, signal)
    steps: Real
    if config.spacing == "linspace":
        steps = np.linspace(0, last - 1, count + 1, dtype=np.float64).round()[:0:-1]
    elif config.spacing == "leading":
        stride = last // (count + 1)
        if stride == 0:
            raise RequestError(
                "num_inference_steps does not fit the model with leading timesteps",
                found=f"{count} of {last} steps",
                remedy=f"at most {last - 1}",
            )
        steps = np.arange(count + 1)[:0:-1] * float(stride) + config.steps_offset
    else:
        steps = _trailing(last, config.train_steps / count, count)
    return _checked(steps, config, count)


def _trailing(start: int, stride: float, count: int) -> Doubles:
    """Trailing timesteps, from the last training step down.

    Float rounding gives numpy.arange one entry too many for some counts (61, 103, …), which
    diffusers passes on as timestep −1, the noisiest level at the end of the run. Here it is cut.
    """
    return np.arange(start, 0, -stride).round()[:count] - 1.0


def _clipped(config: SamplerConfig, signal: npt.NDArray[np.float32]) -> int:
    """The number of noisiest steps that lambda_min_clipped leaves out; λ = ln(α/σ)."""
    alpha, sigma = np.sqrt(signal), np.sqrt(np.float32(1.0) - signal)
    lambdas = np.log(alpha) - np.log(sigma)
    return int(np.searchsorted(lambdas[::-1], np.float32(config.lambda_min_clipped)))


def _checked(steps: Real, config: SamplerConfig, count: int) -> Doubles:
    if not steps.size or steps.max() >= config.train_steps or steps.min() < 0:
        raise RequestError(
            "num_inference_steps does not fit the model's training steps",
            found=f"{count} steps with timestep_spacing {config.spacing!r} and steps_offset "
            f"{config.steps_offset} leave the {config.train_steps} steps of the training",
            remedy="use fewer steps",
        )
    return np.asarray(steps, np.float64)


def euler_levels(config: SamplerConfig, count: int) -> tuple[Doubles, Doubles]:
    """Timesteps, and noise levels, one more of them: the last is 0 or σ_min."""
    table = noise_levels(signal_levels(config, finite=True))
    if config.custom.sigmas is not None:
        # diffusers takes the logarithms of these in float32.
        levels = np.array(config.custom.sigmas, np.float32)
        reported = timesteps_of(levels[:-1], table).astype(np.float32)
        return reported.astype(np.float64), levels.astype(np.float64)
    # The fractions of linspace are kept, in float32.
    timesteps = spaced(config, count).astype(np.float32).astype(np.float64)
    sigmas = np.interp(timesteps, np.arange(len(table)), table)
    if config.levels != "training":
        sigmas = spaced_levels(float(sigmas[0]), float(sigmas[-1]), len(sigmas), config)
        timesteps = timesteps_of(sigmas, table).astype(np.float32).astype(np.float64)
        if config.kind.rounds_karras and config.levels == "karras":
            timesteps = np.round(timesteps)
    return timesteps, _with_final(sigmas, float(table[0]), config)


def multistep_levels(config: SamplerConfig, count: int) -> tuple[Doubles, Doubles]:
    """Timesteps and levels as `euler_levels`, with DPM-Solver++'s spacing and whole steps."""
    signal = signal_levels(config, finite=True)
    table = noise_levels(signal)
    timesteps = spaced_multistep(config, count, signal)
    sigmas = np.interp(timesteps, np.arange(len(table)), table)
    lowest = float(table[0])
    if config.levels != "training":
        sigmas = spaced_levels(float(table[-1]), lowest, count, config)
        exact = timesteps_of(sigmas, table)
        timesteps = np.round(exact) if _rounds(config) else np.trunc(exact)
        if config.kind.repeats_last:
            lowest = float(sigmas[-1])
    return timesteps, _with_final(sigmas, lowest, config)


def triples(timesteps: Doubles, sigmas: Doubles) -> list[tuple[float, float, float]]:
    """All steps as (timestep, level, level after it)."""
    following = sigmas[1:].tolist()
    return list(zip(timesteps.tolist(), sigmas[:-1].tolist(), following, strict=True))


def distinct(nodes: Doubles) -> Doubles:
    """The levels up to the first that repeats: no polynomial has two values at one level."""
    same = np.flatnonzero(np.diff(nodes) == 0.0)
    return nodes[: same[0] + 1] if same.size else nodes


def _rounds(config: SamplerConfig) -> bool:
    """Whether timesteps of spaced levels are rounded before diffusers makes integers of them."""
    cosine = config.beta_schedule == "squaredcos_cap_v2"
    keeps = config.kind.truncates_cosine and cosine
    return config.levels == "karras" and not keeps


def _with_final(sigmas: Doubles, lowest: float, config: SamplerConfig) -> Doubles:
    final = lowest if config.final_sigmas_type == "sigma_min" else 0.0
    return np.append(sigmas, final).astype(np.float32).astype(np.float64)
