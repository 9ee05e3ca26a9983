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
_HALVINGS = 60
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
    quantiles = [beta_quantile(1.0 - p) for p in np.linspace(0.0, 1.0, count).tolist()]
    return np.array([low + q * (high - low) for q in quantiles])


def beta_quantile(probability: float) -> float:
    """Where the beta law of shape (0.6, 0.6) has this probability below it, by bisection."""
    if probability > 0.5:  # the law is symmetric
        return 1.0 - beta_quantile(1.0 - probability)
    wanted = probability * 2.0 * _mass(0.5)
    low, high = 0.0, 0.5
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _mass(middle) < wanted else (low, middle)
    return 0.0 if probability == 0.0 else 0.5 * (low + high)


def _mass(x: float) -> float:
    """∫₀ˣ (t (1 − t))^(a − 1) dt for x ≤ 1/2, the binomial series term by term."""
    total, factor = 0.0, 1.0
    for k in range(_TERMS):
        total += factor * x**k / (_SHAPE + k)
        factor *= (k + 1.0 - _SHAPE) / (k + 1.0)
    return float(x**_SHAPE * total)


_SPACINGS: Mapping[Levels, Callable[[float, float, int], Double]] = {
    "karras": _karras,
    "exponential": _exponential,
    "beta": _beta,
}
