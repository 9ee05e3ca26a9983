"""Noise levels: from betas to σ, and the spacings between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ipa.arrays import Doubles, Floats
from ipa.errors import CheckpointError

from .config import Levels, SamplerConfig

_COSINE_OFFSET = 0.008  # Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17


_MAX_BETA = 0.999


LEAST_SIGNAL = 2.0**-24
"""The value that replaces ᾱ = 0 where σ must be finite, as in diffusers."""


def signal_levels(config: SamplerConfig, *, finite: bool) -> Floats:
    """The signal levels ᾱ_t of all training steps, float32 as in diffusers.

    Args:
        config: The sampler's configuration.
        finite: Replace the terminal 0 of a zero-SNR schedule, so that σ is finite.
    """
    betas = _betas(config)
    if betas.min() <= 0.0 or betas.max() >= 1.0:
        raise CheckpointError(
            "scheduler_config.json: betas must lie between 0 and 1",
            found=f"values from {betas.min():g} to {betas.max():g}",
        )
    if config.zero_terminal_snr:
        betas = _zero_terminal_snr(betas)
    levels = _running_product(np.float32(1.0) - betas)
    if config.zero_terminal_snr and finite:
        levels[-1] = LEAST_SIGNAL
    return levels


def noise_levels(signal: Floats) -> Floats:
    """The noise levels σ_t = √((1 − ᾱ_t) / ᾱ_t), float32."""
    return np.asarray(np.sqrt((np.float32(1.0) - signal) / signal), np.float32)


def timesteps_of(sigmas: Doubles | Floats, table: Floats) -> Doubles:
    """The fractional training steps whose log σ is interpolated to these values.

    Logarithms have the precision of `sigmas`.
    """
    logs = np.log(table)
    wanted = np.log(np.maximum(sigmas, 1e-10))
    low = np.clip(np.searchsorted(logs, wanted, side="right") - 1, 0, len(logs) - 2)
    # The difference of two table entries stays float32, as in diffusers' _sigma_to_t.
    weight = (logs[low] - wanted) / (logs[low] - logs[low + 1])
    weight = np.clip(weight, 0.0, 1.0)
    return np.asarray((1.0 - weight) * low + weight * (low + 1), np.float64)


def _betas(config: SamplerConfig) -> Floats:
    if config.trained_betas is not None:
        return np.array(config.trained_betas, np.float32)
    start, end, count = config.beta_start, config.beta_end, config.train_steps
    if config.beta_schedule == "linear":
        return _linspace(start, end, count)
    if config.beta_schedule == "scaled_linear":
        return _linspace(math.sqrt(start), math.sqrt(end), count) ** 2
    bars = [_cosine(i / count) for i in range(count + 1)]
    return np.array([min(1.0 - bars[i + 1] / bars[i], _MAX_BETA) for i in range(count)], np.float32)


def _cosine(time: float) -> float:
    angle = (time + _COSINE_OFFSET) / (1.0 + _COSINE_OFFSET) * math.pi / 2.0
    return math.cos(angle) ** 2


def _linspace(start: float, end: float, count: int) -> Floats:
    """torch.linspace in float32: from either end to the middle, each entry rounded once (FMA)."""
    first, last = np.float32(start), np.float32(end)
    step = np.float64((last - first) / np.float32(max(count - 1, 1)))
    index = np.arange(count)
    rising = np.float64(first) + step * index
    falling = np.float64(last) - step * (count - 1 - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def _running_product(factors: Floats) -> Floats:
    """torch.cumprod of float32 on the CPU: accumulated in double, rounded at every entry."""
    return np.cumprod(factors.astype(np.float64)).astype(np.float32)


def _zero_terminal_snr(betas: Floats) -> Floats:
    """Algorithm 1 of Lin et al. 2023, arXiv 2305.08891: shift and scale √ᾱ so that it ends at 0."""
    roots = np.sqrt(_running_product(np.float32(1.0) - betas))
    first, last = roots[0].copy(), roots[-1].copy()
    roots = (roots - last) * (first / (first - last))
    bars = roots**2
    return np.float32(1.0) - np.concatenate([bars[:1], bars[1:] / bars[:-1]])


_RHO = 7.0  # Karras et al. 2022, arXiv 2206.00364, table 1


_SHAPE = 0.6  # both parameters of the beta law: Lee et al. 2024, arXiv 2407.12173


_HALVINGS = 100


_TERMS = 60  # of a series whose terms at least halve


def spaced_levels(first: float, last: float, count: int, config: SamplerConfig) -> Doubles:
    """Noise levels from σ_max down to σ_min, which the config may override."""
    spacing = _SPACINGS[config.levels]
    return spacing(config.sigma_max or first, config.sigma_min or last, count)


def _karras(high: float, low: float, count: int) -> Doubles:
    start, end = high ** (1.0 / _RHO), low ** (1.0 / _RHO)
    ramp = np.linspace(0.0, 1.0, count)
    return np.asarray((start + ramp * (end - start)) ** _RHO, np.float64)


def _exponential(high: float, low: float, count: int) -> Doubles:
    return np.asarray(np.exp(np.linspace(math.log(high), math.log(low), count)), np.float64)


def _beta(high: float, low: float, count: int) -> Doubles:
    return low + beta_quantiles(1.0 - np.linspace(0.0, 1.0, count)) * (high - low)


def beta_quantiles(probabilities: Doubles) -> Doubles:
    """The quantiles of the beta distribution of shape (0.6, 0.6), by bisection."""
    # The law is symmetric, and the series below is for its lower half.
    lower = np.minimum(probabilities, 1.0 - probabilities)
    wanted = lower * 2.0 * _mass(np.array([0.5]))
    low, high = np.zeros_like(lower), np.full_like(lower, 0.5)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        below = _mass(middle) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    quantiles = np.where(lower == 0.0, 0.0, 0.5 * (low + high))
    return np.where(probabilities > 0.5, 1.0 - quantiles, quantiles)


def _mass(x: Doubles) -> Doubles:
    """The integral ∫₀ˣ (t (1 − t))^(a − 1) dt for x ≤ 1/2, by the binomial series."""
    total, factor, power = np.zeros_like(x), 1.0, np.ones_like(x)
    for k in range(_TERMS):
        total += factor * power / (_SHAPE + k)
        power = power * x
        factor *= (k + 1.0 - _SHAPE) / (k + 1.0)
    return np.asarray(x**_SHAPE * total, np.float64)


_SPACINGS: Mapping[Levels, Callable[[float, float, int], Doubles]] = {
    "karras": _karras,
    "exponential": _exponential,
    "beta": _beta,
}
