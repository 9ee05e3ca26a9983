"""Noise levels that are not those of training steps: Karras', exponential, and by a beta law."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from .sampler_classes import Levels
from .sampler_config import SamplerConfig

Double = npt.NDArray[np.float64]

_RHO = 7.0  # Karras et al. 2022, arXiv 2206.00364, table 1
_SHAPE = 0.6  # both parameters of the beta law: Lee et al. 2024, arXiv 2407.12173
_HALVINGS = 100
_TERMS = 60  # of a series whose terms at least halve


def spaced_levels(first: float, last: float, count: int, config: SamplerConfig) -> Double:
    """Levels from σ_max down to σ_min, which the config may override; not for "training"."""
    spacing = _SPACINGS[config.levels]
    return spacing(config.sigma_max or first, config.sigma_min or last, count)


def _karras(high: float, low: float, count: int) -> Double:
    start, end = high ** (1.0 / _RHO), low ** (1.0 / _RHO)
    ramp = np.linspace(0.0, 1.0, count)
    return np.asarray((start + ramp * (end - start)) ** _RHO, np.float64)


def _exponential(high: float, low: float, count: int) -> Double:
    return np.asarray(np.exp(np.linspace(math.log(high), math.log(low), count)), np.float64)


def _beta(high: float, low: float, count: int) -> Double:
    return low + beta_quantiles(1.0 - np.linspace(0.0, 1.0, count)) * (high - low)


def beta_quantiles(probabilities: Double) -> Double:
    """Where the beta law of shape (0.6, 0.6) has these probabilities below it, by bisection."""
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


def _mass(x: Double) -> Double:
    """∫₀ˣ (t (1 − t))^(a − 1) dt for x ≤ 1/2, the binomial series term by term."""
    total, factor, power = np.zeros_like(x), 1.0, np.ones_like(x)
    for k in range(_TERMS):
        total += factor * power / (_SHAPE + k)
        power = power * x
        factor *= (k + 1.0 - _SHAPE) / (k + 1.0)
    return np.asarray(x**_SHAPE * total, np.float64)


_SPACINGS: Mapping[Levels, Callable[[float, float, int], Double]] = {
    "karras": _karras,
    "exponential": _exponential,
    "beta": _beta,
}
