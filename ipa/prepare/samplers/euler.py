"""Rows of samplers on latents x = x₀ + σ ε: Euler, Euler ancestral, Heun, both DPM2, LMS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ipa.arrays import Doubles
from ipa.backend.schedule import ESTIMATE, Step

from .config import Rows, SamplerConfig, estimate
from .noise_levels import noise_levels, signal_levels, timesteps_of
from .timesteps import distinct, euler_levels, triples

_LMS_ORDER = 4


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(2)  # exact up to degree 3


def euler(config: SamplerConfig, count: int) -> Rows:
    """Rows of Euler: Karras et al. 2022, arXiv 2206.00364, algorithm 2 without churn."""
    timesteps, sigmas = euler_levels(config, count)
    steps = tuple(
        _euler_row(t, s, following, config) for t, s, following in triples(timesteps, sigmas)
    )
    return _noise_scale(config, sigmas), steps


def euler_ancestral(config: SamplerConfig, count: int) -> Rows:
    """Rows of k-diffusion's sample_euler_ancestral, η = 1: down to σ_down, noise up to σ'."""
    timesteps, sigmas = euler_levels(config, count)
    steps = []
    for timestep, sigma, following in triples(timesteps, sigmas):
        down, up = _down_and_up(sigma, following)
        steps.append(_euler_row(timestep, sigma, down, config, noise=up))
    return _noise_scale(config, sigmas), tuple(steps)


def heun(config: SamplerConfig, count: int) -> Rows:
    """Rows of Heun (Karras' algorithm 1): Euler to σ', then again with both derivatives' mean.

    The latents at σ need not be kept: x' + (σ' − σ)/2 · ((x' − d')/σ' − (x' − d)/σ'), since Euler's
    step leaves (x − d)/σ as it was. The last step, to 0, is Euler's: 2 n − 1 evaluations.
    """
    timesteps, sigmas = euler_levels(config, count)
    steps = []
    for index, (timestep, sigma, following) in enumerate(triples(timesteps, sigmas)):
        steps.append(_euler_row(timestep, sigma, following, config))
        if index + 1 < len(timesteps):
            slope = 0.5 * (following - sigma) / following
            row = _row(
                float(timesteps[index + 1]),
                following,
                config,
                x_x=1.0,
                x_denoised=-slope,
                x_history=(slope,),
            )
            steps.append(replace(row, second=True))
    return _noise_scale(config, sigmas), tuple(steps)


def kdpm2(config: SamplerConfig, count: int) -> Rows:
    """Rows of DPM-Solver-2 (algorithm 2) as k-diffusion has it: the derivative halfway, in log σ.

    Euler to the middle remembers x; the second row leads from there. The last step is Euler's.
    """
    return _two_evaluations(config, count, _straight)


def kdpm2_ancestral(config: SamplerConfig, count: int) -> Rows:
    """Rows of `kdpm2` down to σ_down, then noise up to σ', drawn in second evaluations alone.

    Half-way is σ' itself, since σ σ_down = σ'².
    """
    return _two_evaluations(config, count, _down_and_up)


def _two_evaluations(
    config: SamplerConfig, count: int, split: Callable[[float, float], tuple[float, float]]
) -> Rows:
    timesteps, sigmas = euler_levels(config, count)
    table = noise_levels(signal_levels(config, finite=True))
    steps = []
    for index, (timestep, sigma, following) in enumerate(triples(timesteps, sigmas)):
        down, up = split(sigma, following)
        middle = math.sqrt(sigma * down)
        row = _euler_row(timestep, sigma, middle, config, memory=(1.0, 0.0, 0.0))
        steps.append(replace(row, draws=False))
        if index + 1 < len(timesteps):
            slope = (down - sigma) / middle
            half = timesteps_of(np.array([middle]), table).astype(np.float32)
            row = _row(
                float(half[0]),
                middle,
                config,
                x_x=slope,
                x_denoised=-slope,
                x_noise=up,
                x_history=(1.0,),
            )
            steps.append(replace(row, second=True))
    return _noise_scale(config, sigmas), tuple(steps)


def _straight(sigma: float, following: float) -> tuple[float, float]:
    return following, 0.0


def _down_and_up(sigma: float, following: float) -> tuple[float, float]:
    """The level σ_down, and the noise that leads from there to the next level: η = 1."""
    up = math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2)
    return math.sqrt(following**2 - up**2), up


def lms(config: SamplerConfig, count: int) -> Rows:
    """Rows of linear multistep: x + Σ_k D_k ∫ ℓ_k(σ) dσ over the last four derivatives.

    ℓ_k are Lagrange's polynomials through their levels: diffusers' LMSDiscreteScheduler integrates
    them numerically, here it is exact.
    """
    timesteps, sigmas = euler_levels(config, count)
    steps = []
    for index, (timestep, sigma, following) in enumerate(triples(timesteps, sigmas)):
        if index < config.begin:
            continue
        nodes = distinct(sigmas[max(config.begin, index + 1 - _LMS_ORDER) : index + 1][::-1])
        weights = [_lagrange_integral(nodes, k, sigma, following) for k in range(len(nodes))]
        row = _row(
            timestep,
            sigma,
            config,
            x_x=1.0 + weights[0] / sigma,
            x_denoised=-weights[0] / sigma,
            x_history=tuple(weights[1:]),
            memory=(1.0 / sigma, 0.0, -1.0 / sigma),
        )
        steps.append(row)
    return _noise_scale(config, sigmas), tuple(steps)


def _lagrange_integral(nodes: Doubles, which: int, start: float, end: float) -> float:
    """The integral of a Lagrange polynomial, by Gauss and Legendre."""
    points = 0.5 * (end - start) * _NODES + 0.5 * (end + start)
    others = np.delete(nodes, which)
    values = np.prod((points[:, None] - others[None, :]) / (nodes[which] - others)[None, :], axis=1)
    return float(0.5 * (end - start) * np.sum(_WEIGHTS * values))


def _euler_row(
    timestep: float,
    sigma: float,
    target: float,
    config: SamplerConfig,
    *,
    noise: float = 0.0,
    memory: tuple[float, float, float] = ESTIMATE,
) -> Step:
    ratio = target / sigma
    return _row(
        timestep,
        sigma,
        config,
        x_x=ratio,
        x_denoised=1.0 - ratio,
        x_noise=noise,
        memory=memory,
    )


def _row(
    timestep: float,
    sigma: float,
    config: SamplerConfig,
    *,
    x_x: float,
    x_denoised: float,
    x_noise: float = 0.0,
    x_history: tuple[float, ...] = (),
    memory: tuple[float, float, float] = ESTIMATE,
) -> Step:
    """A row at a level σ; the network sees latents divided by √(σ² + 1)."""
    alpha = 1.0 / math.sqrt(sigma**2 + 1.0)
    denoised_x, denoised_output = estimate(config.prediction, alpha, sigma * alpha)
    return Step(
        timestep=timestep,
        input_scale=alpha,
        denoised_x=denoised_x * alpha,
        denoised_output=denoised_output,
        x_x=x_x,
        x_denoised=x_denoised,
        x_noise=x_noise,
        clip=config.clip,
        sigma=sigma,
        x_history=x_history,
        memory=memory,
    )


def _noise_scale(config: SamplerConfig, sigmas: Doubles) -> float:
    """The factor on the noise, Euler's init_noise_sigma: leading spacing starts lower."""
    largest = float(sigmas.max())
    return math.hypot(largest, 1.0) if config.spacing == "leading" else largest
