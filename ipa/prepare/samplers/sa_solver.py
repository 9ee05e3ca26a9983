"""Rows of SA-Solver (Xue et al. 2023, arXiv 2309.05019): data prediction, as diffusers has it."""

from __future__ import annotations

import math

import numpy as np

from ipa.arrays import Doubles
from ipa.backend.schedule import Step

from .config import Rows, SamplerConfig, estimate
from .timesteps import multistep_levels, triples

_NOISY = (200.0, 800.0)  # timesteps between which diffusers' default τ is 1; elsewhere it is 0


def sa(config: SamplerConfig, count: int) -> Rows:
    """Rows of SA-Solver: predict, evaluate, correct with the new estimate, predict on.

    Predictor and corrector of a step share their terms in x and in its noise, so the corrected
    latents are the predicted ones and a sum of estimates, as in UniPC.
    """
    timesteps, sigmas = multistep_levels(config, count)
    steps: list[Step] = []
    correction = np.zeros(1)
    for index, (timestep, sigma, following) in enumerate(triples(timesteps, sigmas)):
        if index < config.begin:
            continue
        tau = 1.0 if _NOISY[0] <= timestep <= _NOISY[1] else 0.0
        alpha, alpha_next = 1.0 / math.hypot(sigma, 1.0), 1.0 / math.hypot(following, 1.0)
        ratio = following / sigma
        keep = ratio ** (tau**2) * (following * alpha_next) / (sigma * alpha)
        back = sigmas[: index + 2][::-1]
        predicted, corrected = _orders(config, index, len(timesteps))
        predictor = alpha_next * _predictor(back, predicted, tau)
        factors = _sum(keep * correction, predictor)
        denoised_x, denoised_output = estimate(config.prediction, alpha, sigma * alpha)
        row = Step(
            timestep=timestep,
            input_scale=1.0,
            denoised_x=denoised_x,
            denoised_output=denoised_output,
            x_x=keep,
            x_denoised=float(factors[0]),
            x_noise=following * alpha_next * math.sqrt(1.0 - ratio ** (2.0 * tau**2)),
            sigma=sigma,
            x_history=tuple(factors[1:].tolist()),
        )
        steps.append(row)
        # On d₊₁, d, d₋₁, …: what the corrector of the next evaluation changes.
        corrector = alpha_next * _corrector(back, corrected, tau)
        correction = _sum(corrector, -np.append(0.0, predictor))
    return 1.0, tuple(steps)


def _orders(config: SamplerConfig, index: int, count: int) -> tuple[int, int]:
    """The orders of a step's predictor, and of the corrector that follows it."""
    done, left = index - config.begin, count - index
    predictor, corrector = config.predictor_order, config.corrector_order
    if config.lower_order_final:
        predictor, corrector = min(predictor, left), min(corrector, left + 1)
    return min(predictor, done + 1), min(corrector, done + 2)


def _predictor(back: Doubles, order: int, tau: float) -> Doubles:
    """The predictor's factors on d, d₋₁, …, over α'; `back` is the level gone to, then theirs."""
    if back[0] == back[1]:
        return np.zeros(order)
    weights = _weights(back, back[1 : order + 1], tau)
    if order == 2 and len(weights) == 2:
        # diffusers' change of the third order, for few steps.
        weights += _change(back, tau, math.log(back[2] / back[1])) * np.array([1.0, -1.0])
    return _padded(weights, order)


def _corrector(back: Doubles, order: int, tau: float) -> Doubles:
    """The corrector's factors on d₊₁, d, d₋₁, …, over α'."""
    if back[0] == back[1]:
        return np.zeros(order)
    weights = _weights(back, back[:order], tau)
    if order == 2:
        weights += _change(back, tau, math.log(back[1] / back[0])) * np.array([1.0, -1.0])
    return _padded(weights, order)


def _weights(back: Doubles, nodes: Doubles, tau: float) -> Doubles:
    """The weights a ∫ e^(a u) ℓ_k(u) du over the step: u = λ − λ', a = 1 + τ², ℓ_k Lagrange's."""
    same = np.flatnonzero(np.diff(nodes) == 0.0)
    nodes = nodes[: same[0] + 1] if same.size else nodes
    a, h = 1.0 + tau**2, math.log(back[1] / back[0])
    decay = math.exp(-a * h)
    moments = [1.0 - decay]
    for degree in range(1, len(nodes)):
        moments.append(-((-h) ** degree) * decay - degree / a * moments[-1])
    places = np.log(back[0] / nodes)
    return np.linalg.solve(np.vander(places, len(nodes), increasing=True).T, np.array(moments))


def _change(back: Doubles, tau: float, between: float) -> float:
    a, h = 1.0 + tau**2, math.log(back[1] / back[0])
    return a * (h**2 / 2.0 - (h * a - 1.0 + math.exp(-a * h)) / a**2) / between


def _padded(weights: Doubles, order: int) -> Doubles:
    return np.append(weights, np.zeros(order - len(weights)))


def _sum(first: Doubles, second: Doubles) -> Doubles:
    total = np.zeros(max(len(first), len(second)))
    total[: len(first)] += first
    total[: len(second)] += second
    return total
