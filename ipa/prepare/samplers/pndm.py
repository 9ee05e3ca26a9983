"""Rows of PLMS (Liu et al. 2022, arXiv 2202.09778): Stable Diffusion 1's own sampler.

diffusers' PNDMScheduler with skip_prk_steps: the linear multistep of fourth order, whose start is
one step that is done twice, so that n steps are n + 1 evaluations.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ipa.backend.schedule import Step

from .config import Rows, SamplerConfig, estimate
from .noise_levels import signal_levels
from .timesteps import spaced

_OUTPUT = (0.0, 1.0, 0.0)
# Adams and Bashforth, by how many outputs there are: the newest first.
_MULTISTEP = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def pndm(config: SamplerConfig, count: int) -> Rows:
    """Rows of PLMS; outputs are combined before they are taken for noise, also if they predict v.

    As in diffusers, a run that leaves out steps leaves out evaluations, and does its second one
    from a step before it.
    """
    signal = signal_levels(config, finite=False).astype(np.float64)
    final = 1.0 if config.set_alpha_to_one else float(signal[0])
    visited = np.round(spaced(config, count)).astype(np.int64).tolist()
    stride = config.train_steps // count
    evaluated = [*visited[:2], *visited[1:]][config.begin :]
    steps: list[Step] = []
    first = (1.0, 0.0)
    for index, timestep in enumerate(evaluated):
        start = timestep + stride if index == 1 else timestep
        end = start - stride
        after = float(signal[end]) if end >= 0 else final
        keep, gain = _transfer(float(signal[start]), after, config)
        if index == 0:
            first = (keep, gain)
        if index == 1:  # from where the first began, with the mean of both outputs
            back = keep / first[0]
            x_x, weights = back, [gain / 2, gain / 2 - back * first[1]]
        else:
            x_x = keep
            weights = [gain * w for w in _MULTISTEP[min(4, max(1, index))]]
            if 1 < index < 5:  # the second evaluation is not remembered: the first lies beyond it
                weights.insert(index - 1, 0.0)
        row = _row(timestep, float(signal[timestep]), config, x_x, weights)
        steps.append(replace(row, second=index == 1))
    return 1.0, tuple(steps)


def _transfer(before: float, after: float, config: SamplerConfig) -> tuple[float, float]:
    """Factors on x and on the output that lead from one ᾱ to another (equation 9)."""
    bottom = before * math.sqrt(1.0 - after) + math.sqrt(before * (1.0 - before) * after)
    on_x, on_noise = math.sqrt(after / before), -(after - before) / bottom
    if config.prediction == "epsilon":
        return on_x, on_noise
    return on_x + on_noise * math.sqrt(1.0 - before), on_noise * math.sqrt(before)


def _row(
    timestep: int, signal: float, config: SamplerConfig, x_x: float, weights: list[float]
) -> Step:
    alpha, sigma = math.sqrt(signal), math.sqrt(1.0 - signal)
    denoised_x, denoised_output = estimate(config.prediction, alpha, sigma)
    return Step(
        timestep=float(timestep),
        input_scale=1.0,
        denoised_x=denoised_x,
        denoised_output=denoised_output,
        x_x=x_x,
        x_output=weights[0],
        sigma=sigma / alpha,
        x_history=tuple(weights[1:]),
        memory=_OUTPUT,
    )
