"""What rounding alone makes of stages, and how a capture keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

NO_FLOORS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Floors:
    """Floors: what rounding alone makes of each stage, in relative L2.

    `free` is of a whole run, where each stage inherits what those before have lost; `forced` of
    each stage on the reference's own inputs. Either may be empty: it was not measured.
    """

    free: Mapping[str, float] = field(default_factory=lambda: NO_FLOORS)
    forced: Mapping[str, float] = field(default_factory=lambda: NO_FLOORS)

    def joined(self, other: Floors) -> Floors:
        """The floors of two machines together: at each stage the larger."""
        return Floors(_larger(self.free, other.free), _larger(self.forced, other.forced))

    def __bool__(self) -> bool:
        return bool(self.free or self.forced)


def _larger(a: Mapping[str, float], b: Mapping[str, float]) -> Mapping[str, float]:
    return {stage: max(a.get(stage, 0.0), b.get(stage, 0.0)) for stage in dict.fromkeys((*a, *b))}


NO_MEASURE = Floors()


_DIGITS = 3


_KINDS = ("free", "forced")


def told(floors: Mapping[str, Floors], stages: Iterable[str]) -> dict[str, Any]:
    """Floors as JSON: by precision and kind, a number or null for each stage; [] if not known."""
    names = list(stages)
    return {
        dtype: {kind: _row(getattr(floor, kind), names) for kind in _KINDS}
        for dtype, floor in floors.items()
    }


def floors_of(given: Mapping[str, Any], stages: Iterable[str]) -> dict[str, Floors]:
    """Parse the JSON of `told`. Raises ValueError, KeyError or TypeError for anything else."""
    names = list(stages)
    return {
        dtype: Floors(*(_named(kinds[kind], names) for kind in _KINDS))
        for dtype, kinds in given.items()
    }


def _row(floors: Mapping[str, float], names: Iterable[str]) -> list[float | None]:
    if not floors:
        return []
    return [None if name not in floors else float(f"{floors[name]:.{_DIGITS}g}") for name in names]


def _named(row: list[Any], names: list[str]) -> dict[str, float]:
    if not row:
        return {}
    return {name: float(v) for name, v in zip(names, row, strict=True) if v is not None}
