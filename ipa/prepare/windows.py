"""What the start and end of an image prompt mean: three programs' rules, step by step.

"fraction" is that of IP-Adapter's own pipeline (custom_pipelines.py): step i of n is on if
start ≤ i/n and (i+1)/n ≤ end.

"cutoff" is diffusers' `IPAdapterScaleCutoffCallback`: the prompt goes off after step int(n · end)
has finished, counted from 0, so that one step at least is on. It has no start; the same callback
switches on here: after step int(n · start), or from the first step with start = 0.

"sigma" is ComfyUI's: fractions of the training timesteps, from noisy to clean. A step is on if its
noise level σ lies between P(start) and P(end), both included; P(p) is σ at the training timestep
(1 − p) · 999, between whole ones in a straight line of log σ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .curves import is_open

Single: TypeAlias = npt.NDArray[np.float32]
Flags: TypeAlias = npt.NDArray[np.bool_]

_LAST_TIMESTEP = 999.0  # in ComfyUI, whatever the training was
_ALWAYS = 999999999.9  # its σ of a start at 0


@dataclass(frozen=True, slots=True)
class NoiseTimes:
    """Where the steps of a run stand.

    Attributes:
        steps: σ at which each step evaluates the network, (n,).
        training: σ of every training timestep, from clean to noisy.
    """

    steps: Single
    training: Single


def open_steps(rule: str, start: float, end: float, times: NoiseTimes) -> Flags:
    """Whether an image prompt is on, at each step: (n,).

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


def level_at(fraction: float, training: Single) -> float:
    """P(p), rounded to float32 as ComfyUI's is; beyond every level at 0, and 0 at 1."""
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
"""The rules by name."""
