"""Rows of UniPC (Zhao et al. 2023, arXiv 2302.04867): data prediction, B(h) of either kind."""

from __future__ import annotations

import math

import numpy as np

from ipa.arrays import Doubles
from ipa.backend.schedule import Step

from .config import Rows, SamplerConfig, estimate
from .timesteps import multistep_levels, triples


def unipc(config: SamplerConfig, count: int) -> Rows:
    """Rows of UniPC: predict, evaluate, correct with the new estimate, predict on, as in diffusers.

    Corrector and predictor of a step share their terms in x, so the corrected latents are the
    predicted ones and a sum of differences of estimates: no latents of the past are needed.
    """
    timesteps, sigmas = multistep_levels(config, count)
    levels = triples(timesteps, sigmas)
    steps: list[Step] = []
    correction = np.zeros(1)
    for index, (timestep, sigma, following) in enumerate(levels):
        alpha, alpha_next = 1.0 / math.hypot(sigma, 1.0), 1.0 / math.hypot(following, 1.0)
        keep = (following * alpha_next) / (sigma * alpha)
        if index < config.begin:
            continue
        order = _order(config, index, count, following)
        predictor, difference = _factors(sigmas[: index + 2][::-1], order, config.solver_type)
        factors = _sum(keep * correction, alpha_next * predictor)
        denoised_x, denoised_output = estimate(config.prediction, alpha, sigma * alpha)
        row = Step(
            timestep=timestep,
            input_scale=1.0,
            denoised_x=denoised_x,
            denoised_output=denoised_output,
            x_x=keep,
            x_denoised=float(factors[0]),
            sigma=sigma,
            x_history=tuple(factors[1:].tolist()),
        )
        steps.append(row)
        correction = alpha_next * difference
    return 1.0, tuple(steps)


def _order(config: SamplerConfig, index: int, count: int, following: float) -> int:
    if following == 0.0:
        return 1
    left = count - index if config.lower_order_final else config.solver_order
    return min(config.solver_order, left, index - config.begin + 1)


def _factors(sigmas: Doubles, order: int, kind: str) -> tuple[Doubles, Doubles]:
    """A step's predictor, as factors on d, d₋₁, …; and corrector − predictor, on d₊₁, d, d₋₁, ….

    Args:
        sigmas: The level that is gone to, the one it starts from, and those before.
        order: How many estimates the predictor uses.
        kind: "bh1", B(h) = h, or "bh2", B(h) = e^h − 1.
    """
    following, sigma = float(sigmas[0]), float(sigmas[1])
    predictor, difference = np.zeros(order), np.zeros(order + 1)
    if following in {0.0, sigma}:
        predictor[0] = 1.0 - following / sigma
        return predictor, difference
    h = -math.log(sigma / following)
    scale = h if kind == "bh1" else math.expm1(h)
    with np.errstate(divide="ignore"):
        ratios = np.append(np.log(sigmas[2 : order + 1] / sigma) / h, 1.0)
    powers = np.vander(ratios, order, increasing=True).T
    wanted = _wanted(h, order, scale)
    predicted = np.full(order - 1, 0.5)
    if order > 2:
        predicted = np.linalg.solve(powers[:-1, :-1], wanted[:-1])
    corrected = np.array([0.5]) if order == 1 else np.linalg.solve(powers, wanted)
    predictor[0] = -math.expm1(h)
    predictor -= scale * _differences(predicted, ratios)
    change = _differences(corrected[:-1] - predicted, ratios)
    difference[0] = -scale * corrected[-1]
    difference[1:] = -scale * change
    difference[1] += scale * corrected[-1]
    return predictor, difference


def _wanted(h: float, order: int, scale: float) -> Doubles:
    """The right side of UniPC's equations: k! φ_(k+1)(h) h / B(h), for k from 1."""
    phi, factorial, values = math.expm1(h) / h - 1.0, 1, []
    for k in range(1, order + 1):
        values.append(phi * factorial / scale)
        factorial *= k + 1
        phi = phi / h - 1.0 / factorial
    return np.array(values)


def _differences(weights: Doubles, ratios: Doubles) -> Doubles:
    """The sum Σ_k weight_k (d₋ₖ − d)/r_k, as factors on d, d₋₁, …"""
    each = weights / ratios[:-1]
    return np.concatenate([[-each.sum()], each])


def _sum(*vectors: Doubles) -> Doubles:
    total = np.zeros(max(len(v) for v in vectors))
    for vector in vectors:
        total[: len(vector)] += vector
    return total
