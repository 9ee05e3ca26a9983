"""From a network's output to x₀ and to the noise, as factors on x and on the output."""

from __future__ import annotations

from typing import TypeAlias

from ipa.contract.schedule import Step

from .sampler_config import Prediction

Rows: TypeAlias = tuple[float, tuple[Step, ...]]
"""The factor on the starting noise, and the rows."""


def estimate(prediction: Prediction, alpha: float, sigma: float) -> tuple[float, float]:
    """Factors on x = α x₀ + σ ε and on the output that give the estimate of x₀."""
    if prediction == "epsilon":
        return 1.0 / alpha, -sigma / alpha
    return (alpha, -sigma) if prediction == "v_prediction" else (0.0, 1.0)


def noise_estimate(prediction: Prediction, alpha: float, sigma: float) -> tuple[float, float]:
    """Likewise for the noise ε, of α² + σ² = 1."""
    if prediction == "epsilon":
        return 0.0, 1.0
    return (sigma, alpha) if prediction == "v_prediction" else (1.0 / sigma, -alpha / sigma)
