"""The weight of an image prompt over the steps: windows and curves, as factors on λ.

Step i of n stands at the fraction i/n: the first at 0, the last at (n-1)/n. That is where a window
of IP-Adapter's own pipeline begins (custom_pipelines.py). ComfyUI's start_at and end_at are
fractions of the training timesteps instead: the same numbers there mean other steps.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ipa.contract.errors import RequestError, shown
from ipa.contract.weights import Curve

Doubles: TypeAlias = npt.NDArray[np.float64]

_HALF = 0.5

_NAMED: Mapping[str, Callable[[Doubles], Doubles]] = {
    "constant": np.ones_like,
    "linear": lambda x: x,
    "ease_in": lambda x: 1.0 - np.cos(0.5 * np.pi * x),
    "ease_out": lambda x: np.sin(0.5 * np.pi * x),
    "ease_in_out": lambda x: 0.5 - 0.5 * np.cos(np.pi * x),
    "fade_in": lambda x: np.minimum(x / _HALF, 1.0),
    "fade_out": lambda x: np.minimum((1.0 - x) / _HALF, 1.0),
}
"""Factors in [0, 1] at fractions x. "linear" and the eases rise from 0 to 1 over the whole run: an
ease in begins slowly, an ease out ends slowly, as in CSS (in ComfyUI's frame weights those two have
each other's names). "fade_in" rises over the first half, then stays; "fade_out" stays, then falls
over the second half."""

NAMES: tuple[str, ...] = tuple(_NAMED)


def curve_factors(curve: Curve | None, steps: int) -> Doubles:
    """The factor on λ at each of n steps, (n,) in float64.

    Between points it goes straight; before the first and after the last it is theirs. Where two
    points share a fraction it jumps, and the later one holds there.

    Raises:
        RequestError: There is no curve of this name.
    """
    fractions = np.arange(steps) / steps
    if curve is None:
        return np.ones(steps)
    if isinstance(curve, str):
        return _named(curve)(fractions)
    return _through(curve, fractions)


def is_open(start: float, end: float, step: int, steps: int) -> bool:
    """Whether a window of fractions covers step i of n: start ≤ i/n and (i+1)/n ≤ end.

    The rule of IP-Adapter's own pipeline (custom_pipelines.py).
    """
    return not (step / steps < start or (step + 1) / steps > end)


def _named(name: str) -> Callable[[Doubles], Doubles]:
    spelled = name.strip().lower().replace(" ", "_").replace("-", "_")
    if spelled in _NAMED:
        return _NAMED[spelled]
    nearest = difflib.get_close_matches(spelled, NAMES, n=1, cutoff=0.0)
    raise RequestError(
        "there is no curve of this name",
        found=shown(name),
        remedy=f"did you mean {nearest[0]!r}? All: {', '.join(NAMES)}",
    )


def _through(points: Sequence[tuple[float, float]], fractions: Doubles) -> Doubles:
    places, factors = np.array(points, dtype=np.float64).T
    after = np.searchsorted(places, fractions, side="right")
    low, high = np.maximum(after - 1, 0), np.minimum(after, len(places) - 1)
    width = places[high] - places[low]
    share = np.divide(
        fractions - places[low], width, out=np.zeros_like(fractions), where=width > 0.0
    )
    return np.asarray(factors[low] + share * (factors[high] - factors[low]))
