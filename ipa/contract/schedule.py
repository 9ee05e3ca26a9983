"""A sampler as a table of floats: `prepare` computes the rows, each backend applies them.

With x the latents, o the network's output, and d the denoised estimate:

    o  = network(input_scale · x, timestep)
    d  = clip(denoised_x · x + denoised_output · o)
    x' = x_x · x + x_output · o + x_denoised · d + x_previous · d_previous + x_noise · ε

Every one-evaluation sampler with at most one step of history is such a row: DDIM, Euler, Euler
ancestral, DPM++ 2M.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One row: one evaluation of the network. Coefficients were computed in float64.

    `timestep` is in [0, 1000) and may be fractional. `clip` is the largest absolute value of d, or
    None. `x_previous` multiplies the d of the step before; `x_noise` fresh standard noise. `sigma`
    is the noise level, noise over signal, at which the network is evaluated; no backend reads it.
    """

    timestep: float
    input_scale: float
    denoised_x: float
    denoised_output: float
    x_x: float
    x_output: float = 0.0
    x_denoised: float = 0.0
    x_previous: float = 0.0
    x_noise: float = 0.0
    clip: float | None = None
    sigma: float = 0.0

    @property
    def signal_scale(self) -> float:
        """Factor on the latents of a clean picture in what this row is given.

        Every row is given x = signal_scale · x₀ + noise_scale · ε. Its network sees α x₀ + α σ ε,
        with α = 1/√(1 + σ²), which is input_scale · x.
        """
        return 1.0 / (math.hypot(self.sigma, 1.0) * self.input_scale)

    @property
    def noise_scale(self) -> float:
        """Factor on standard noise likewise."""
        return self.sigma * self.signal_scale


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A whole run: its name, the factor on the starting noise, and its rows."""

    name: str
    noise_scale: float
    steps: tuple[Step, ...]
