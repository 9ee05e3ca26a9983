"""Which training steps a run visits: diffusers' spacings (table 2 of arXiv 2305.08891)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.contract.errors import RequestError

from .sampler_config import SamplerConfig

Double = npt.NDArray[np.float64]
Real = npt.NDArray[np.floating[Any]]


def spaced(config: SamplerConfig, count: int) -> Double:
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


def spaced_multistep(config: SamplerConfig, count: int, signal: npt.NDArray[np.float32]) -> Double:
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


def _trailing(start: int, stride: float, count: int) -> Double:
    """From the last step down.

    Float rounding gives numpy.arange one entry too many for some counts (61, 103, …), which
    diffusers passes on as timestep −1, the noisiest level at the end of the run. Here it is cut.
    """
    return np.arange(start, 0, -stride).round()[:count] - 1.0


def _clipped(config: SamplerConfig, signal: npt.NDArray[np.float32]) -> int:
    """How many of the noisiest steps lambda_min_clipped leaves out; λ = ln(α/σ)."""
    alpha, sigma = np.sqrt(signal), np.sqrt(np.float32(1.0) - signal)
    lambdas = np.log(alpha) - np.log(sigma)
    return int(np.searchsorted(lambdas[::-1], np.float32(config.lambda_min_clipped)))


def _checked(steps: Real, config: SamplerConfig, count: int) -> Double:
    if not steps.size or steps.max() >= config.train_steps or steps.min() < 0:
        raise RequestError(
            "num_inference_steps does not fit the model's training steps",
            found=f"{count} steps with timestep_spacing {config.spacing!r} and steps_offset "
            f"{config.steps_offset} leave the {config.train_steps} steps of the training",
            remedy="use fewer steps",
        )
    return np.asarray(steps, np.float64)
