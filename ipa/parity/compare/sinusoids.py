"""Stages that are sinusoids of known numbers: exact ones, and what last bits of frequencies make.

A network is told its timestep t, and SDXL its sizes, as sines and cosines of t times frequencies
10000^(-i/n). A frequency is an exponential in float32, of which two good libraries may differ by
the last bit; the angle then differs by t times that, a thousand times what rounding the sine costs.
A run in float64 does not show it: diffusers keeps frequencies in float32 in every precision.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ipa.arrays import Doubles, Floats
from ipa.backend.stage_table import STAGES
from ipa.backend.stages import kind_of, split

_LAST_BIT, _ROUNDING = 2.0**-23, 2.0**-24
"""A float32's last bit at most, relative to the number, and half of that."""


_TOLD = {kind.wave_of for kind in STAGES} - {""}
"""The results that tell the numbers of sinusoids."""

_PERIOD = 10_000.0


_FAR = 0.02
"""The least relative L2 at which a stage is no sinusoid of its number, in whatever order."""


class Sinusoids:
    """The numbers of a run's sinusoids, learned from its stages in their order."""

    def __init__(self) -> None:
        self._numbers: dict[str, Doubles] = {}
        self._pooled = 0

    def see(self, stage: str, array: Floats) -> None:
        """Learn from a stage."""
        phase, path = split(stage)
        if path in _TOLD:
            self._numbers[phase] = np.asarray(array, np.float64)
        elif stage == "text.positive/pooled":
            self._pooled = array.shape[-1]

    def floor(self, stage: str, shape: tuple[int, ...]) -> float | None:
        """The relative L2 of a sinusoid whose frequencies are all off by their last bit.

        None for stages that are none, and where the numbers were not told.
        """
        numbers = self._of(stage)
        if numbers is None:
            return None
        width = self._width(stage, shape, numbers)
        if width < 2:
            return None
        slope = np.sqrt(np.mean(_frequencies(width, 0) ** 2))
        largest = float(np.sqrt(np.mean(numbers**2)))
        return float(_LAST_BIT * largest * slope + _ROUNDING)

    def nudged(self, stage: str, array: Floats) -> Floats | None:
        """The stage with every frequency off by half its last bit, up and down in turn.

        None where it is no sinusoid of its numbers.
        """
        numbers = self._of(stage)
        if numbers is None:
            return None
        width = self._width(stage, array.shape, numbers)
        if width < 2:
            return None
        given = np.asarray(array, np.float64)[:, array.shape[-1] - width * numbers.shape[1] :]
        rows = numbers if len(numbers) == len(array) else numbers[:1]
        found = min(_layouts(rows, width), key=lambda one: float(np.linalg.norm(one - given)))
        if np.linalg.norm(found - given) > _FAR * np.linalg.norm(given):
            return None
        changed = np.array(array, np.float32)
        changed[:, array.shape[-1] - width * numbers.shape[1] :] = found
        return changed

    def _of(self, stage: str) -> Doubles | None:
        kind = kind_of(stage)
        return self._numbers.get(split(stage)[0]) if kind is not None and kind.wave_of else None

    def _width(self, stage: str, shape: tuple[int, ...], numbers: Doubles) -> int:
        """The width of the sinusoid of one number."""
        pooled = self._pooled if stage.endswith(".input") else 0
        return (shape[-1] - pooled) // int(numbers.shape[1])


def _frequencies(width: int, shift: int) -> Doubles:
    half = width // 2
    found: Doubles = _PERIOD ** (-np.arange(half) / max(half - shift, 1))
    return found


def _off(frequencies: Doubles) -> Doubles:
    turns = np.where(np.arange(len(frequencies)) % 2, -1.0, 1.0)
    found: Doubles = frequencies * (1 + turns * _ROUNDING)
    return found


def _layouts(numbers: Doubles, width: int) -> Iterator[Doubles]:
    """Rows of nudged sinusoids, in each form that diffusers knows; an odd width ends in a zero."""
    for shift in (0, 1):
        angles = numbers[..., None] * _off(_frequencies(width, shift))
        sines, cosines = np.sin(angles), np.cos(angles)
        for pair in ((cosines, sines), (sines, cosines)):
            row = np.concatenate(pair, axis=-1)
            yield np.pad(row, ((0, 0), (0, 0), (0, width % 2))).reshape(len(numbers), -1)
