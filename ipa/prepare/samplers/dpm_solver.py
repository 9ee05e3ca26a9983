"""Rows of DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095): multistep, singlestep, with noise."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from ipa.backend.schedule import ESTIMATE, Step

from .config import Rows, SamplerConfig, estimate
from .timesteps import multistep_levels, triples

_FEW_STEPS = 15  # below it, lower_order_final makes the last step of DPM++ first-order


def dpmpp_multistep(config: SamplerConfig, count: int) -> Rows:
    """Rows of algorithm 2 (multistep, data prediction), or its SDE, as diffusers has them."""
    timesteps, sigmas = multistep_levels(config, count)
    steps = []
    for index, (timestep, sigma, following) in enumerate(triples(timesteps, sigmas)):
        move = _Move.between(sigma, following, config)
        order = _multistep_order(config, index, len(timesteps))
        # A level that repeats (only near as many steps as training steps) has no history to
        # extrapolate from.
        nodes = [following, *sigmas[max(index + 1 - order, 0) : index + 1][::-1].tolist()]
        gaps = [math.log(b / a) for a, b in itertools.pairwise(nodes)] if following else []
        on_d, *history = _extrapolated(move, gaps, math.hypot(following, 1.0))
        row = _row(
            timestep,
            sigma,
            config,
            move,
            x_denoised=move.gain + on_d,
            x_history=tuple(history),
        )
        steps.append(row)
    return 1.0, tuple(steps)


def _multistep_order(config: SamplerConfig, index: int, count: int) -> int:
    left, is_short = count - index, config.lower_order_final and count < _FEW_STEPS
    is_first = config.euler_at_final or config.final_sigmas_type == "zero"
    if left == 1 and (is_short or is_first):
        return 1
    order = min(config.solver_order, max(index - config.begin, 0) + 1)
    return min(order, 2) if left == 2 and is_short else order


def _extrapolated(move: _Move, gaps: list[float], norm: float) -> tuple[float, ...]:
    """The estimated change of d, as factors on d, d₋₁, d₋₂, which add up to 0.

    Args:
        move: The step.
        gaps: λ' − λ, λ − λ₋₁, λ₋₁ − λ₋₂: as many as the order. What repeats ends them.
        norm: 1/α'.
    """
    if len(gaps) < 2 or gaps[0] == 0.0 or gaps[1] == 0.0:
        return (0.0,)
    h, near = gaps[0], gaps[1] / gaps[0]
    if len(gaps) < 3 or gaps[2] == 0.0:
        slope = move.slope / near
        return slope, -slope
    far = gaps[2] / h
    first = (math.expm1(-h) / h + 1.0) / norm
    second = (0.5 - (math.expm1(-h) + h) / h**2) / norm
    bend = first * near / (near + far) + second / (near + far)
    rise, before = (first + bend) / near, bend / far
    return rise, -rise - before, before


def dpmpp_singlestep(config: SamplerConfig, count: int) -> Rows:
    """Rows of algorithm 1 (DPM-Solver++(2S)), or its SDE, as diffusers has them.

    Each pair of rows is one step of second order over two levels: the first goes one level, the
    second starts anew where the first did. `count` counts evaluations, as there.
    """
    timesteps, sigmas = multistep_levels(config, count)
    orders = _orders(config, count)
    levels = triples(timesteps, sigmas)
    steps = []
    for index, (timestep, sigma, following) in enumerate(levels):
        if orders[index] == 1 or index <= config.begin:
            move = _Move.between(sigma, following, config)
            memory = ESTIMATE
            if index + 1 < len(orders) and orders[index + 1] == 2:
                whole, slope = _two_levels(sigma, following, levels[index + 1][2], config)
                memory = (whole.keep, 0.0, whole.gain - slope)
            row = _row(timestep, sigma, config, move, x_denoised=move.gain, memory=memory)
        else:
            before = float(sigmas[index - 1])
            whole, slope = _two_levels(before, sigma, following, config)
            from_memory = _Move(0.0, 0.0, 0.0, whole.noise)
            row = _row(timestep, sigma, config, from_memory, x_denoised=slope, x_history=(1.0,))
        steps.append(row)
    return 1.0, tuple(steps)


def _orders(config: SamplerConfig, count: int) -> list[int]:
    """The order of each step (diffusers' get_order_list); a last step to σ = 0 has order 1."""
    lower = config.lower_order_final or config.final_sigmas_type == "zero"
    if config.solver_order == 1:
        return [1] * count
    if not lower and count % 2 == 0:
        return [1, 2] * (count // 2)
    return [1, 2] * ((count - 1) // 2) + ([1, 1] if count % 2 == 0 else [1])


def _two_levels(
    start: float, middle: float, end: float, config: SamplerConfig
) -> tuple[_Move, float]:
    """The step over two levels, and the factor on d_middle − d_start."""
    move = _Move.between(start, end, config)
    if start == middle or end == start:
        return move, 0.0
    return move, move.slope * math.log(start / end) / math.log(start / middle)


@dataclass(frozen=True, slots=True)
class _Move:
    """A step between two levels: factors on x, on d, on the change of d over as long, on noise.

    With h = ln(σ/σ'): (s'/s) x + α'(1 − e^−h) d + w ∂d, where w is half of the factor before it for
    the midpoint rule and α'((e^−h − 1)/h + 1) for Heun's. For the SDE, 2h stands for h in all of
    them, x has another e^−h, and the noise s'√(1 − e^−2h).
    """

    keep: float
    gain: float
    slope: float
    noise: float

    @classmethod
    def between(cls, sigma: float, following: float, config: SamplerConfig) -> _Move:
        alpha, alpha_next = 1.0 / math.hypot(sigma, 1.0), 1.0 / math.hypot(following, 1.0)
        stochastic = config.kind.sde_of is not None
        ratio = following / sigma
        decay = ratio**2 if stochastic else ratio
        keep = (following * alpha_next) / (sigma * alpha)
        gain = alpha_next * (1.0 - decay)
        slope = 0.5 * gain
        if config.solver_type == "heun":
            h = math.log(sigma / following) if following else 0.0
            h = 2.0 * h if stochastic else h
            slope = alpha_next * (math.expm1(-h) / h + 1.0) if h else 0.0
        if not stochastic:
            return cls(keep, gain, slope, 0.0)
        return cls(keep * ratio, gain, slope, following * alpha_next * math.sqrt(1.0 - decay))


def _row(
    timestep: float,
    sigma: float,
    config: SamplerConfig,
    move: _Move,
    *,
    x_denoised: float,
    x_history: tuple[float, ...] = (),
    memory: tuple[float, float, float] = ESTIMATE,
) -> Step:
    alpha = 1.0 / math.hypot(sigma, 1.0)
    denoised_x, denoised_output = estimate(config.prediction, alpha, sigma * alpha)
    return Step(
        timestep=timestep,
        input_scale=1.0,
        denoised_x=denoised_x,
        denoised_output=denoised_output,
        x_x=move.keep,
        x_denoised=x_denoised,
        x_noise=move.noise,
        sigma=sigma,
        x_history=x_history,
        memory=memory,
    )
