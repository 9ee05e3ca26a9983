"""The samplers' formulas: from noise levels to rows of coefficients, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ipa.contract.errors import CheckpointError
from ipa.contract.schedule import Step

from .noise_levels import (
    LEAST_SIGNAL,
    karras_levels,
    noise_levels,
    signal_levels,
    timesteps_of,
)
from .sampler_config import Family, Prediction, SamplerConfig
from .timesteps import spaced, spaced_multistep

Double = npt.NDArray[np.float64]
Rows = tuple[float, tuple[Step, ...]]

_FEW_STEPS = 15  # below it, lower_order_final makes the last step of DPM++ first-order


def _ddim(config: SamplerConfig, count: int) -> Rows:
    """Song et al. 2020, arXiv 2010.02502, equation 12 with η = 0."""
    if config.karras:
        timesteps, sigmas = _euler_levels(config, count)
        levels = 1.0 / (1.0 + sigmas**2)
        # Karras' last level is σ_min already: only σ = 0 after it leaves the last step work to do.
        pairs = list(zip(levels[:-1], [*levels[1:-1], 1.0], strict=True))
    else:
        signal = signal_levels(config, finite=False).astype(np.float64)
        timesteps = np.round(spaced(config, count))
        final = 1.0 if config.set_alpha_to_one else float(signal[0])
        # diffusers steps back by this stride whatever the spacing is.
        before = timesteps.astype(np.int64) - config.train_steps // count
        pairs = [
            (signal[int(t)], signal[b] if b >= 0 else final)
            for t, b in zip(timesteps, before, strict=True)
        ]
    rows = zip(timesteps, pairs, strict=True)
    return 1.0, tuple(_ddim_row(float(t), float(a), float(b), config) for t, (a, b) in rows)


def _ddim_row(timestep: float, signal: float, following: float, config: SamplerConfig) -> Step:
    """√ᾱ' d + √(1−ᾱ') ε, where ε comes from the unclipped estimate."""
    alpha, sigma = math.sqrt(signal), math.sqrt(1.0 - signal)
    if alpha == 0.0 and config.prediction == "epsilon":
        raise CheckpointError(
            "scheduler_config.json: rescale_betas_zero_snr cannot start from pure noise with "
            "prediction_type epsilon",
            found=f"no signal at timestep {timestep:g}",
            remedy='such models predict v: set prediction_type to "v_prediction"',
        )
    direction = math.sqrt(1.0 - following)
    noise_x, noise_output = {
        "epsilon": (0.0, 1.0),
        "v_prediction": (sigma, alpha),
        "sample": (1.0 / sigma, -alpha / sigma),
    }[config.prediction]
    denoised_x, denoised_output = _estimate(config.prediction, alpha, sigma)
    return Step(
        timestep=timestep,
        input_scale=1.0,
        denoised_x=denoised_x,
        denoised_output=denoised_output,
        x_x=direction * noise_x,
        x_output=direction * noise_output,
        x_denoised=math.sqrt(following),
        clip=config.clip,
        sigma=sigma / math.sqrt(max(signal, LEAST_SIGNAL)),
    )


def _euler(config: SamplerConfig, count: int) -> Rows:
    """Karras et al. 2022, arXiv 2206.00364, algorithm 2 without churn: x + (σ' − σ)(x − d)/σ."""
    timesteps, sigmas = _euler_levels(config, count)
    steps = tuple(
        _euler_row(t, s, following, 0.0, config.prediction)
        for t, s, following in _triples(timesteps, sigmas)
    )
    return _noise_scale(config, sigmas), steps


def _euler_ancestral(config: SamplerConfig, count: int) -> Rows:
    """k-diffusion's sample_euler_ancestral with η = 1: down to σ_down, then noise up to σ'."""
    timesteps, sigmas = _euler_levels(config, count)
    steps = []
    for timestep, sigma, following in _triples(timesteps, sigmas):
        up = math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2)
        down = math.sqrt(following**2 - up**2)
        steps.append(_euler_row(timestep, sigma, down, up, config.prediction))
    return _noise_scale(config, sigmas), tuple(steps)


def _euler_row(
    timestep: float, sigma: float, target: float, noise: float, prediction: Prediction
) -> Step:
    """A step on latents x = x₀ + σ ε, which the network sees divided by √(σ² + 1)."""
    alpha = 1.0 / math.sqrt(sigma**2 + 1.0)
    denoised_x, denoised_output = _estimate(prediction, alpha, sigma * alpha)
    return Step(
        timestep=timestep,
        input_scale=alpha,
        denoised_x=denoised_x * alpha,
        denoised_output=denoised_output,
        x_x=target / sigma,
        x_denoised=1.0 - target / sigma,
        x_noise=noise,
        sigma=sigma,
    )


def _dpmpp_2m(config: SamplerConfig, count: int) -> Rows:
    """Lu et al. 2022, arXiv 2211.01095, algorithm 2 (multistep, data prediction)."""
    timesteps, sigmas = _multistep_levels(config, count)
    last = len(timesteps) - 1
    lower_last = (
        config.euler_at_final
        or (config.lower_order_final and last + 1 < _FEW_STEPS)
        or config.final_sigmas_type == "zero"
    )
    steps = []
    for index, (timestep, sigma, following) in enumerate(_triples(timesteps, sigmas)):
        first_order = config.solver_order == 1 or index == 0 or (index == last and lower_last)
        before = None if first_order else float(sigmas[index - 1])
        steps.append(_dpmpp_row(timestep, before, sigma, following, config))
    return 1.0, tuple(steps)


def _dpmpp_row(
    timestep: float, before: float | None, sigma: float, following: float, config: SamplerConfig
) -> Step:
    """(s'/s) x + α'(1 − e^−h) d + w (h/h₀)(d − d_previous), with h = ln(σ/σ').

    w is α'(1 − e^−h)/2 for the midpoint rule and α'((e^−h − 1)/h + 1) for Heun's. A level that
    repeats (only near as many steps as training steps) has no history to extrapolate from.
    """
    alpha, alpha_next = 1.0 / math.hypot(sigma, 1.0), 1.0 / math.hypot(following, 1.0)
    gain = alpha_next * (1.0 - following / sigma)
    slope = 0.0
    if before is not None and before != sigma and following != sigma:
        h, h_before = math.log(sigma / following), math.log(before / sigma)
        heun = alpha_next * (math.expm1(-h) / h + 1.0)
        slope = (0.5 * gain if config.solver_type == "midpoint" else heun) * h / h_before
    denoised_x, denoised_output = _estimate(config.prediction, alpha, sigma * alpha)
    return Step(
        timestep=timestep,
        input_scale=1.0,
        denoised_x=denoised_x,
        denoised_output=denoised_output,
        x_x=(following * alpha_next) / (sigma * alpha),
        x_denoised=gain + slope,
        x_previous=-slope,
        sigma=sigma,
    )


def _estimate(prediction: Prediction, alpha: float, sigma: float) -> tuple[float, float]:
    """Factors on x = α x₀ + σ ε and on the output that give the estimate of x₀."""
    if prediction == "epsilon":
        return 1.0 / alpha, -sigma / alpha
    return (alpha, -sigma) if prediction == "v_prediction" else (0.0, 1.0)


def _euler_levels(config: SamplerConfig, count: int) -> tuple[Double, Double]:
    """Timesteps, and one more level than that: the last is 0 or σ_min."""
    signal = signal_levels(config, finite=True)
    table = noise_levels(signal)
    # The fractions of linspace are kept, in float32.
    timesteps = spaced(config, count).astype(np.float32).astype(np.float64)
    sigmas = np.interp(timesteps, np.arange(len(table)), table)
    if config.karras:
        sigmas = karras_levels(float(sigmas[0]), float(sigmas[-1]), len(sigmas), config)
        timesteps = timesteps_of(sigmas, table).astype(np.float32).astype(np.float64)
    return timesteps, _with_final(sigmas, table, config)


def _multistep_levels(config: SamplerConfig, count: int) -> tuple[Double, Double]:
    """As `_euler_levels`, with the spacing and the whole steps of diffusers' DPM-Solver++."""
    signal = signal_levels(config, finite=True)
    table = noise_levels(signal)
    timesteps = spaced_multistep(config, count, signal)
    sigmas = np.interp(timesteps, np.arange(len(table)), table)
    if config.karras:
        sigmas = karras_levels(float(table[-1]), float(table[0]), count, config)
        exact = timesteps_of(sigmas, table)
        cosine = config.beta_schedule == "squaredcos_cap_v2"
        timesteps = np.trunc(exact) if cosine else np.round(exact)
    return timesteps, _with_final(sigmas, table, config)


def _with_final(sigmas: Double, table: npt.NDArray[np.float32], config: SamplerConfig) -> Double:
    final = float(table[0]) if config.final_sigmas_type == "sigma_min" else 0.0
    return np.append(sigmas, final).astype(np.float32).astype(np.float64)


def _noise_scale(config: SamplerConfig, sigmas: Double) -> float:
    """Euler's init_noise_sigma: leading spacing starts below the last training step."""
    largest = float(sigmas.max())
    return math.hypot(largest, 1.0) if config.spacing == "leading" else largest


def _triples(timesteps: Double, sigmas: Double) -> list[tuple[float, float, float]]:
    following = sigmas[1:].tolist()
    return list(zip(timesteps.tolist(), sigmas[:-1].tolist(), following, strict=True))


ROWS: Mapping[Family, Callable[[SamplerConfig, int], Rows]] = {
    "ddim": _ddim,
    "euler": _euler,
    "euler_ancestral": _euler_ancestral,
    "dpmpp_2m": _dpmpp_2m,
}
"""Each family's rows: the factor on the starting noise, and the steps."""
