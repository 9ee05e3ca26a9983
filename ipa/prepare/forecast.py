"""At which evaluations the network's last feature is forecast, and from which ones (Spectrum).

The feature h is what enters the network's last norm. A feature that was not computed is a sum of
those that were, h(t*) ≈ Σ_k w_k h(t_k): a ridge fit of Chebyshev polynomials over the run, and a
line through the last two, mixed. Both are linear in the h(t_k), so all there is to know of them is
a row of weights, computed here in float64.

Source: arXiv 2603.01623 and its authors' code (github.com/hanjq17/Spectrum), which added the line
after publication. Evaluation i of n is at τ = 2 i / n − 1: for n = 50 the places of that code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ipa.backend.past import MAX_PAST
from ipa.errors import RequestError
from ipa.request.request import Request

DEGREE = 4
"""The highest Chebyshev polynomial of the fit, the authors' M."""

RIDGE = 0.1
"""The weight of squared coefficients in the fit, the authors' λ."""

MIX = 0.5
"""The share of the fit in a forecast; the rest is the line's. The authors' w."""

Doubles: TypeAlias = npt.NDArray[np.float64]
Forecast: TypeAlias = "Mapping[int, float] | None"
"""The weights of earlier evaluations by their number; None where the network is computed."""


def forecasts(request: Request, guided_steps: Sequence[bool]) -> tuple[Forecast, ...]:
    """What each evaluation of a run is forecast from.

    The first `forecast_warmup` are computed, then every n-th, n being `forecast_window` rounded
    down, which grows by `forecast_growth` with each. A guided evaluation is forecast from guided
    ones alone, since others have nothing of the unconditional half, and computed until there are
    `forecast_warmup` of those.

    Raises:
        RequestError: `cache_interval` is asked for as well.
    """
    if not request.forecast:
        return (None,) * len(guided_steps)
    if request.cache_interval > 1:
        raise RequestError(
            "forecast and cache_interval are two ways to do the same steps",
            found=f"cache_interval={request.cache_interval}, with forecast",
            remedy="leave one of them out",
        )
    return tuple(_forecasts(request, guided_steps))


def _forecasts(request: Request, guided_steps: Sequence[bool]) -> Iterator[Forecast]:
    computed: list[int] = []
    window, since = request.forecast_window, 0
    for number, guided in enumerate(guided_steps):
        usable = [past for past in computed[-MAX_PAST:] if guided_steps[past] or not guided]
        is_warm = len(usable) >= min(request.forecast_warmup, MAX_PAST)
        since += 1
        if is_warm and since % int(window):
            yield dict(zip(usable, row(usable, number, len(guided_steps)).tolist(), strict=True))
            continue
        window += request.forecast_growth if is_warm else 0.0
        computed.append(number)
        since = 0
        yield None


def row(computed: Sequence[int], wanted: int, evaluations: int) -> Doubles:
    """The weights of the features of the `computed` evaluations in that of the `wanted` one."""
    places = 2.0 * np.array([*computed, wanted], np.float64) / evaluations - 1.0
    mixed: Doubles = MIX * _fit(places[:-1], places[-1]) + (1.0 - MIX) * _line(computed, wanted)
    return mixed


def _fit(places: Doubles, wanted: float) -> Doubles:
    """The ridge fit at a place: c(τ*)ᵀ (XᵀX + λ I)⁻¹ Xᵀ, X having a row of polynomials a place."""
    design = np.polynomial.chebyshev.chebvander(places, DEGREE)
    normal = design.T @ design + RIDGE * np.eye(DEGREE + 1)
    at = np.polynomial.chebyshev.chebvander(np.array([wanted]), DEGREE)[0]
    return np.asarray(design @ np.linalg.solve(normal, at), np.float64)


def _line(computed: Sequence[int], wanted: int) -> Doubles:
    """The line through the last two; with one alone, that one."""
    weights = np.zeros(len(computed))
    weights[-1] = 1.0
    if len(computed) > 1:
        ahead = (wanted - computed[-1]) / (computed[-1] - computed[-2])
        weights[-2:] = -ahead, 1.0 + ahead
    return weights


def forecast_warnings(request: Request, planned: Sequence[Forecast]) -> list[str]:
    """Warnings about what of a request's forecast has no effect."""
    if request.forecast and not any(planned):
        return [
            f"forecast has no effect: each of {len(planned)} steps is computed, "
            f"forecast_warmup being {request.forecast_warmup}."
        ]
    return []
