"""Heat maps: λ by layer and step, as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

_CELL, _GAP, _LABEL, _LINE = 18, 12, 150, 22
_TITLE, _TEXT = 14, 12  # font sizes
_INK, _PAPER = (24, 24, 28), (250, 250, 248)
_OFF = (226, 226, 222)
_STOPS = np.array([[70, 50, 110], [190, 55, 100], [245, 130, 50], [250, 215, 90]], dtype=np.float64)
_BELOW = np.array([[70, 50, 110], [40, 120, 220]], dtype=np.float64)  # for λ < 0


class HeatRow(Protocol):
    """The protocol of a row of a heat map."""

    @property
    def place(self) -> str:
        """The row's label."""

    @property
    def sites(self) -> str:
        """The sites, added to the label."""

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The row's λ, one per step."""


def colour(share: float) -> tuple[int, int, int]:
    """The colour of λ as a share of the largest, in [-1, 1]: red, green and blue."""
    stops = _STOPS if share > 0.0 else _BELOW
    at = abs(share) * (len(stops) - 1)
    low = min(int(at), len(stops) - 2)
    red, green, blue = stops[low] + (at - low) * (stops[low + 1] - stops[low])
    return round(red), round(green), round(blue)


def heat_map(maps: Sequence[tuple[str, Sequence[HeatRow]]], steps: int) -> Image.Image:
    """One map under another, each with its title, a row per layer and a column per step.

    Grey is off. Steps are counted from 0, below each map; the scale is each map's own, and is said
    in its title.
    """
    width = 2 * _GAP + _LABEL + steps * _CELL
    height = _GAP + sum(2 * _LINE + len(rows) * _CELL + _GAP for _, rows in maps)
    picture = Image.new("RGB", (max(width, 480), height), _PAPER)
    draw = ImageDraw.Draw(picture)
    top = _GAP
    for title, rows in maps:
        peak = max((float(np.abs(row.values).max()) for row in rows), default=0.0)
        _text(draw, (_GAP, top), f"{title}   (largest weight: {peak:.3g})", _TITLE)
        _cells(draw, rows, top + _LINE, peak)
        bottom = top + _LINE + len(rows) * _CELL
        for step in _marks(steps):
            _text(draw, (_GAP + _LABEL + step * _CELL + 2, bottom + 2), str(step), _TEXT)
        top = bottom + _LINE + _GAP
    return picture


def _cells(draw: ImageDraw.ImageDraw, rows: Sequence[HeatRow], top: int, peak: float) -> None:
    for number, row in enumerate(rows):
        y = top + number * _CELL
        _text(draw, (_GAP, y + 2), f"{row.place}   {row.sites}", _TEXT)
        for step, value in enumerate(row.values):
            x = _GAP + _LABEL + step * _CELL
            fill = colour(float(value) / peak) if value else _OFF
            draw.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill=fill)


def _marks(steps: int) -> Iterable[int]:
    return range(0, steps, 1 if steps <= 10 else 5)


def _text(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int) -> None:
    draw.text(at, text, fill=_INK, font=ImageFont.load_default(size))
