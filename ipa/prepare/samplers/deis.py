"""Rows of DEIS (Zhang and Chen 2022, arXiv 2204.13902): tAB-DEIS in log ρ, as diffusers has it."""

from __future__ import annotations

import math

import numpy as np

from ipa.arrays import Doubles
from ipa.backend.schedule import Step

from .config import Rows, SamplerConfig, estimate, noise_estimate
from .timesteps import distinct, multistep_levels, triples

_FEW_STEPS = 15  # below it, lower_order_final lowers the order of the last two steps


def deis(config: SamplerConfig, count: int) -> Rows:
    """Rows x/α + Σ_k ε₋ₖ ∫ ℓ_k(ln ρ) dρ over the last outputs, taken for noise; ρ = noise / signal.

    ℓ_k are Lagrange's polynomials through the logarithms of their levels.
    """
    timesteps, sigmas = multistep_levels(config, count)
    steps = []
    for index, (timestep, sigma, following) in enumerate(triples(timesteps, sigmas)):
        order = _order(config, index, len(timesteps))
        nodes = distinct(sigmas[index + 1 - order : index + 1][::-1])
        weights = _integrals(nodes, following) / math.hypot(following, 1.0)
        alpha = 1.0 / math.hypot(sigma, 1.0)
        denoised_x, denoised_output = estimate(config.prediction, alpha, sigma * alpha)
        noise_x, noise_output = noise_estimate(config.prediction, alpha, sigma * alpha)
        row = Step(
            timestep=timestep,
            input_scale=1.0,
            denoised_x=denoised_x,
            denoised_output=denoised_output,
            x_x=1.0 / (math.hypot(following, 1.0) * alpha) + float(weights[0]) * noise_x,
            x_output=float(weights[0]) * noise_output,
            sigma=sigma,
            x_history=tuple(weights[1:].tolist()),
            memory=(noise_x, noise_output, 0.0),
        )
        steps.append(row)
    return 1.0, tuple(steps)


def _order(config: SamplerConfig, index: int, count: int) -> int:
    order = min(config.solver_order, max(index - config.begin, 0) + 1)
    left = count - index
    return min(order, left) if config.lower_order_final and count < _FEW_STEPS else order


def _integrals(nodes: Doubles, end: float) -> Doubles:
    """The integrals ∫ ℓ_k(ln ρ) dρ from the first node to the end, by node; at most three.

    With u = ln(ρ/ρ₀): the integrals of 1, u and u² are ρ, ρ (u − 1) and ρ (u² − 2 u + 2).
    """
    start = float(nodes[0])
    logs = np.log(nodes / start)
    u = math.log(end / start)
    ends = np.array([end, end * (u - 1.0), end * (u * u - 2.0 * u + 2.0)])
    powers = (ends - start * np.array([1.0, -1.0, 2.0]))[: len(nodes)]
    # The weights that give every polynomial of so low a degree its integral.
    return np.linalg.solve(np.vander(logs, len(nodes), increasing=True).T, powers)
