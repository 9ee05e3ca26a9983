"""Rows of samplers that step between signal levels ᾱ: DDIM, DDPM, PLMS, and the distilled ones."""

from __future__ import annotations

import math

import numpy as np

from ipa.backend.schedule import Step
from ipa.errors import CheckpointError, RequestError

from .config import Rows, SamplerConfig, estimate, noise_estimate
from .noise_levels import LEAST_SIGNAL, signal_levels
from .timesteps import euler_levels, spaced

_LEAST_VARIANCE = 1e-20  # of a DDPM step, as in diffusers
_DATA_SIGMA = 0.5  # of consistency models' boundary condition: Song et al. 2023, arXiv 2303.01469


def ddim(config: SamplerConfig, count: int) -> Rows:
    """Rows of DDIM: Song et al. 2020, arXiv 2010.02502, equation 12; η = 0 adds no noise."""
    if config.levels == "karras":
        timesteps, sigmas = euler_levels(config, count)
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
    """A row √ᾱ' d + √(1 − ᾱ' − s²) ε + s · noise, where ε comes from the unclipped estimate."""
    alpha, sigma = _amplitudes(timestep, signal, config)
    variance = (1.0 - following) / (1.0 - signal) * (1.0 - signal / following)
    added = config.eta * math.sqrt(max(variance, 0.0)) if config.eta else 0.0
    direction = math.sqrt(1.0 - following - added**2)
    noise_x, noise_output = noise_estimate(config.prediction, alpha, sigma)
    return _row(
        timestep,
        signal,
        config,
        x_x=direction * noise_x,
        x_output=direction * noise_output,
        x_denoised=math.sqrt(following),
        x_noise=added,
    )


def ddpm(config: SamplerConfig, count: int) -> Rows:
    """Rows of DDPM: Ho et al. 2020, arXiv 2006.11239, equations 6 and 7, between visited steps."""
    signal = signal_levels(config, finite=False).astype(np.float64)
    timesteps = np.round(spaced(config, count)).astype(np.int64)
    levels = signal[timesteps].tolist()
    steps = []
    for t, a, b in zip(timesteps.tolist(), levels, [*levels[1:], 1.0], strict=True):
        beta = 1.0 - a / b
        variance = max((1.0 - b) / (1.0 - a) * beta, _LEAST_VARIANCE)
        row = _row(
            float(t),
            a,
            config,
            x_x=math.sqrt(a / b) * (1.0 - b) / (1.0 - a),
            x_denoised=math.sqrt(b) * beta / (1.0 - a),
            x_noise=math.sqrt(beta if config.large_variance else variance) if t > 0 else 0.0,
        )
        steps.append(row)
    return 1.0, tuple(steps)


def lcm(config: SamplerConfig, count: int) -> Rows:
    """Rows of LCM: Luo et al. 2023, arXiv 2310.04378, algorithm 3: an estimate, then noise."""
    signal = signal_levels(config, finite=False).astype(np.float64)
    timesteps = _distilled_timesteps(config, count)
    steps = []
    for index, t in enumerate(timesteps):
        scaled = t * config.timestep_scaling
        skip = _DATA_SIGMA**2 / (scaled**2 + _DATA_SIGMA**2)
        out = scaled / math.hypot(scaled, _DATA_SIGMA)
        last = index == count - 1
        following = 1.0 if last else float(signal[timesteps[index + 1]])
        row = _row(
            float(t),
            float(signal[t]),
            config,
            x_x=math.sqrt(following) * skip,
            x_denoised=math.sqrt(following) * out,
            x_noise=math.sqrt(1.0 - following),
        )
        steps.append(row)
    return 1.0, tuple(steps)


def tcd(config: SamplerConfig, count: int) -> Rows:
    """Rows of TCD: Zheng et al. 2024, arXiv 2402.19159: to s = (1 − γ) t', then noise; γ is η."""
    signal = signal_levels(config, finite=False).astype(np.float64)
    timesteps = _distilled_timesteps(config, count)
    steps = []
    for index, t in enumerate(timesteps):
        last = index == count - 1
        following = 0 if last else timesteps[index + 1]
        between = math.floor(np.float32(1.0 - config.eta) * np.float32(following))
        low, high = float(signal[between]), float(signal[following])
        ratio = high / low if config.eta and not last else 1.0
        alpha, sigma = _amplitudes(float(t), float(signal[t]), config)
        direction = math.sqrt(ratio) * math.sqrt(1.0 - low)
        noise_x, noise_output = noise_estimate(config.prediction, alpha, sigma)
        row = _row(
            float(t),
            float(signal[t]),
            config,
            x_x=direction * noise_x,
            x_output=direction * noise_output,
            x_denoised=math.sqrt(ratio) * math.sqrt(low),
            x_noise=math.sqrt(1.0 - ratio),
        )
        steps.append(row)
    return 1.0, tuple(steps)


def distilled_on(config: SamplerConfig) -> list[int]:
    """The timesteps that a model for LCM or TCD was distilled on, from noisy to clean."""
    original = config.original_inference_steps
    return [n * (config.train_steps // original) - 1 for n in range(original, 0, -1)]


def _distilled_timesteps(config: SamplerConfig, count: int) -> list[int]:
    """The call's timesteps, or a choice of those that the model was distilled on."""
    if config.custom.timesteps is not None:
        return [int(t) for t in config.custom.timesteps]
    original = config.original_inference_steps
    if count > original:
        raise RequestError(
            f"{config.family} takes no more steps than the model was distilled on",
            found=f"num_inference_steps={count}",
            remedy=f"at most {original}; 4 to 8 are usual",
        )
    trained = distilled_on(config)
    chosen = np.floor(np.linspace(0, original, num=count, endpoint=False)).astype(np.int64)
    return [trained[index] for index in chosen]


def _row(
    timestep: float,
    signal: float,
    config: SamplerConfig,
    *,
    x_x: float,
    x_denoised: float,
    x_output: float = 0.0,
    x_noise: float = 0.0,
) -> Step:
    """A row at a signal level, its estimate of x₀ clipped as the config says."""
    alpha, sigma = _amplitudes(timestep, signal, config)
    denoised_x, denoised_output = estimate(config.prediction, alpha, sigma)
    return Step(
        timestep=timestep,
        input_scale=1.0,
        denoised_x=denoised_x,
        denoised_output=denoised_output,
        clip=config.clip,
        sigma=sigma / math.sqrt(max(signal, LEAST_SIGNAL)),
        x_x=x_x,
        x_output=x_output,
        x_denoised=x_denoised,
        x_noise=x_noise,
    )


def _amplitudes(timestep: float, signal: float, config: SamplerConfig) -> tuple[float, float]:
    """The factors α and σ of x = α x₀ + σ ε."""
    alpha, sigma = math.sqrt(signal), math.sqrt(1.0 - signal)
    if alpha == 0.0 and config.prediction == "epsilon":
        raise CheckpointError(
            "scheduler_config.json: rescale_betas_zero_snr cannot start from pure noise with "
            "prediction_type epsilon",
            found=f"no signal at timestep {timestep:g}",
            remedy='such models predict v: set prediction_type to "v_prediction"',
        )
    return alpha, sigma
