"""How far a stage may be from the reference's: so many times what rounding alone makes there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ipa.parity.capture.floors import NO_FLOORS, Floors

# What one rounding makes of a number: half a unit in the last place; of quantised weights, half a
# step of a group's range.
ROUNDING = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "8-bit": 2.0**-9,
    "4-bit": 2.0**-5,
}


# How many times its floor a stage may be off. Where stages are forced: measured between the
# backends in float32 at most 3.4 over 1,200 stages of the demo, 7.7 on random weights in a norm of
# nearly constant channels; the least of the faults that tests plant gives 40.
FACTOR = 12.0


# Where runs are free, rounding grows from step to step, and a single exact run says less of how
# far: measured at most 11.5 over 1,400 stages of four steps of the demo.
FREE_FACTOR = 40.0


# Of stages whose floor nobody has measured, in free runs of 20 steps. float32: design.md, section
# 5; the others are wide, since a trajectory that is pushed goes its own way.
UNKNOWN = {
    "float64": 1e-4,
    "float32": 1e-4,
    "float16": 0.1,
    "bfloat16": 0.5,
    "8-bit": 0.5,
    "4-bit": 2.0,
}


# The same of stages that are forced, in roundings. Measured in float32, over 3,000 stages: 11.
UNKNOWN_FORCED = 32.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the relative L2 of stages.

    Args:
        dtype: The lower precision of the two runs, a key of `ROUNDING`.
        floors: By stage, the relative L2 that rounding makes (`comparing_tap.floors`).
        factor: How many times its floor a stage may be off; None is `FACTOR` where stages are
            forced, else `FREE_FACTOR`.
        by_stage: By stage, limits that take the place of those.
        forced: Whether stages take the reference's input.
        local: Of free runs, the floors that forced stages have: with them limits follow the run
            (`ipa.parity.compare.rising`).
    """

    dtype: str = "float32"
    floors: Mapping[str, float] = field(default_factory=lambda: NO_FLOORS)
    factor: float | None = None
    by_stage: Mapping[str, float] = field(default_factory=lambda: NO_FLOORS)
    forced: bool = False
    local: Mapping[str, float] = field(default_factory=lambda: NO_FLOORS)

    @classmethod
    def of(
        cls, dtype: str, floors: Floors, by_stage: Mapping[str, float] = NO_FLOORS, *, forced: bool
    ) -> Limits:
        """The limits from floors of either kind."""
        if forced:
            return cls(dtype, floors.forced, by_stage=by_stage, forced=True)
        return cls(dtype, floors.free, by_stage=by_stage, local=floors.forced)

    def floor(self, stage: str, least: float | None = None) -> float | None:
        """A stage's floor, no less than a single number's rounding; None if not known.

        `least` is what can be told of a stage without a measurement (`sinusoids`).
        """
        floors = [one for one in (self.floors.get(stage), least) if one is not None]
        return max(*floors, ROUNDING[self.dtype]) if floors else None

    def limit(self, stage: str, least: float | None = None) -> float:
        """The largest relative L2 that a stage may have."""
        if stage in self.by_stage:
            return self.by_stage[stage]
        floor = self.floor(stage, least)
        usual = FACTOR if self.forced else FREE_FACTOR
        times = 0.0 if floor is None else (usual if self.factor is None else self.factor) * floor
        return times if stage in self.floors else max(times, self._unmeasured)

    @property
    def rounding(self) -> float:
        """The rounding of one number in the lower precision."""
        return ROUNDING[self.dtype]

    @property
    def _unmeasured(self) -> float:
        return UNKNOWN_FORCED * ROUNDING[self.dtype] if self.forced else UNKNOWN[self.dtype]


def lower(a: str, b: str) -> str:
    """The one of two precisions that rounds more."""
    return max(a, b, key=lambda dtype: ROUNDING[dtype])
