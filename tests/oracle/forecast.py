"""Spectrum (arXiv 2603.01623) on diffusers' pipelines, restated from its authors' code.

Their code runs SDXL alone, in bfloat16 and with places for 50 steps; here it is float64 and any
number of evaluations. Unlike ours it fits features, not weights, by stacked least squares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

DEGREE, RIDGE, MIX = 4, 0.1, 0.5
History = list[tuple[int, torch.Tensor]]


def actual(count: int, window: float, growth: float, warmup: int) -> list[bool]:
    """Whether the network is run, by evaluation: the bookkeeping of the authors' forward."""
    found, cached = [], 0
    for number in range(count):
        is_actual = True
        if number >= warmup:
            is_actual = (cached + 1) % math.floor(window) == 0
            if is_actual:
                window += growth
        cached = 0 if is_actual else cached + 1
        found.append(is_actual)
    return found


def polynomials(place: torch.Tensor) -> torch.Tensor:
    """T_m(τ) = cos(m arccos τ), a column each."""
    return torch.cos(torch.arange(DEGREE + 1, dtype=torch.float64) * place.arccos()[:, None])


def forecast_feature(history: History, number: int, count: int) -> torch.Tensor:
    """Half of the ridge fit, half of the line through the last two."""
    numbers = torch.tensor([past for past, _ in history] + [number], dtype=torch.float64)
    basis = polynomials(numbers * 2 / count - 1)
    features = torch.stack([feature.double().flatten() for _, feature in history])
    stacked = torch.cat([basis[:-1], RIDGE**0.5 * torch.eye(DEGREE + 1, dtype=torch.float64)])
    wanted = torch.cat([features, features.new_zeros(DEGREE + 1, features.shape[1])])
    fit = basis[-1] @ torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution
    line = features[-1]
    if len(history) > 1:
        slope = (features[-1] - features[-2]) / (history[-1][0] - history[-2][0])
        line = line + slope * (number - history[-1][0])
    return (MIX * fit + (1 - MIX) * line).reshape(history[0][1].shape)


@contextmanager
def forecast(
    pipe: Any, *, window: float = 2.0, growth: float = 0.75, warmup: int = 5
) -> Iterator[None]:
    """A context in which a pipeline's UNet is run at some evaluations, and forecast at others."""
    unet, forward = pipe.unet, pipe.unet.forward
    history: History = []
    plan: list[bool] = []
    counter = iter(range(10**6))

    def planned(sample: torch.Tensor, *args: Any, **options: Any) -> Any:
        number = next(counter)
        if not plan:
            plan.extend(actual(pipe.num_timesteps, window, growth, warmup))
        if plan[number]:
            handle = unet.conv_norm_out.register_forward_pre_hook(
                lambda _, given: history.append((number, given[0]))
            )
            try:
                return forward(sample, *args, **options)
            finally:
                handle.remove()
        feature = forecast_feature(history, number, len(plan)).to(sample.dtype)
        return (unet.conv_out(unet.conv_act(unet.conv_norm_out(feature))),)

    unet.forward = planned
    try:
        yield
    finally:
        del unet.forward
