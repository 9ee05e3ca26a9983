"""A sampler as a table of floats: `prepare` computes the rows, each backend applies them.

With x the latents, o the network's output, d the denoised estimate, and m what later rows remember
of this one:

    o  = network(input_scale · x, timestep)
    d  = clip(denoised_x · x + denoised_output · o)
    x' = x_x · x + x_output · o + x_denoised · d + Σ_k x_history[k] · m_(k+1 rows ago) + x_noise · ε
    m  = memory[0] · x + memory[1] · o + memory[2] · d

A row is one evaluation of the network. One-step samplers need no memory; multistep ones (DPM++ 2M,
UniPC, LMS, PLMS) remember estimates, derivatives or outputs; a sampler with two evaluations per
step (Heun, DPM2) is two rows, the first of which remembers what the second starts from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_HISTORY = 4
"""The most rows back that a row may look."""

ESTIMATE = (0.0, 0.0, 1.0)
"""The memory that is the denoised estimate itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A row: one evaluation of the network. Coefficients were computed in float64.

    `timestep` is in [0, 1000) and may be fractional. `clip` is the largest absolute value of d, or
    None. `x_noise` multiplies fresh standard noise, which is drawn if `draws`. `sigma` is the noise
    level, noise over signal, at which the network is evaluated; no backend reads it. `x_history`
    multiplies the memories of the rows before, the latest first, at most `MAX_HISTORY` of them.
    `second` says that it is the second evaluation of the step that the row before began; no backend
    reads it.
    """

    timestep: float
    input_scale: float
    denoised_x: float
    denoised_output: float
    x_x: float
    x_output: float = 0.0
    x_denoised: float = 0.0
    x_noise: float = 0.0
    clip: float | None = None
    sigma: float = 0.0
    x_history: tuple[float, ...] = ()
    memory: tuple[float, float, float] = ESTIMATE
    draws: bool = True
    second: bool = False

    @property
    def signal_scale(self) -> float:
        """The factor on a clean picture's latents in this row's input.

        Every row is given x = signal_scale · x₀ + noise_scale · ε. Its network sees α x₀ + α σ ε,
        with α = 1/√(1 + σ²), which is input_scale · x.
        """
        return 1.0 / (math.hypot(self.sigma, 1.0) * self.input_scale)

    @property
    def noise_scale(self) -> float:
        """The factor on standard noise in this row's input."""
        return self.sigma * self.signal_scale


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The schedule of a run: its name, the starting noise's factor, its rows, its warnings.

    Where any row adds noise, noise is drawn at every row that draws, in their order.
    """

    name: str
    noise_scale: float
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()
