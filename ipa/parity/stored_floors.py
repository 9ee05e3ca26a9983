"""Floors as a capture's header keeps them: lists in the order of its stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .limits import Floors

_DIGITS = 3
_KINDS = ("free", "forced")


def told(floors: Mapping[str, Floors], stages: Iterable[str]) -> dict[str, Any]:
    """By precision and kind, a number or null for each stage; [] for a kind that is not known."""
    names = list(stages)
    return {
        dtype: {kind: _row(getattr(known, kind), names) for kind in _KINDS}
        for dtype, known in floors.items()
    }


def floors_of(given: Mapping[str, Any], stages: Iterable[str]) -> dict[str, Floors]:
    """The inverse. Raises ValueError, KeyError or TypeError for what is none."""
    names = list(stages)
    return {
        dtype: Floors(*(_named(kinds[kind], names) for kind in _KINDS))
        for dtype, kinds in given.items()
    }


def _row(known: Mapping[str, float], names: Iterable[str]) -> list[float | None]:
    if not known:
        return []
    return [None if name not in known else float(f"{known[name]:.{_DIGITS}g}") for name in names]


def _named(row: list[Any], names: list[str]) -> dict[str, float]:
    if not row:
        return {}
    return {name: float(v) for name, v in zip(names, row, strict=True) if v is not None}
