"""λ over the steps: curves, and the steps that a window lets act."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ipa.arrays import Doubles, Flags, Floats
from ipa.errors import RequestError, shown
from ipa.request.scales import Curve

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


_LAST_TIMESTEP = 999.0  # in ComfyUI, whatever the training was


_ALWAYS = 999999999.9  # its σ of a start at 0


@dataclass(frozen=True, slots=True)
class NoiseTimes:
    """The positions of a run's steps between noise and picture.

    Attributes:
        steps: σ at which each step evaluates the network, (n,).
        training: σ of every training timestep, from clean to noisy.
    """

    steps: Floats
    training: Floats


def open_steps(rule: str, start: float, end: float, times: NoiseTimes) -> Flags:
    """Whether an image prompt's window is open at each step: (n,).

    Args:
        rule: A name of WINDOWS.
        start: From 0 to 1.
        end: From start to 1.
        times: The run.
    """
    return WINDOWS[rule](start, end, times)


def _fraction(start: float, end: float, times: NoiseTimes) -> Flags:
    count = len(times.steps)
    return np.array([is_open(start, end, step, count) for step in range(count)])


def _cutoff(start: float, end: float, times: NoiseTimes) -> Flags:
    count = len(times.steps)
    step = np.arange(count)
    begun = step > int(count * start) if start > 0.0 else np.ones(count, np.bool_)
    return np.asarray(begun & (step <= int(count * end)))


def _sigma(start: float, end: float, times: NoiseTimes) -> Flags:
    high, low = (level_at(fraction, times.training) for fraction in (start, end))
    return np.asarray((low <= times.steps) & (times.steps <= high))


def level_at(fraction: float, training: Floats) -> float:
    """The noise level P(p) in float32, as ComfyUI's; beyond every level at 0, and 0 at 1."""
    if fraction <= 0.0:
        return _ALWAYS
    if fraction >= 1.0:
        return 0.0
    place = float(np.float32((1.0 - fraction) * _LAST_TIMESTEP))
    logs = np.log(training.astype(np.float64))
    return float(np.float32(np.exp(np.interp(place, np.arange(len(logs)), logs))))


WINDOWS: Mapping[str, Callable[[float, float, NoiseTimes], Flags]] = {
    "fraction": _fraction,
    "cutoff": _cutoff,
    "sigma": _sigma,
}
"""The rules for windows, by name."""
