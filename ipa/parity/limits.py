"""How far a stage may be from the reference's: so many times what rounding alone makes there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# Half a unit in the last place: what one rounding makes of a number.
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# Of the floor. Measured between the backends in float32, over 1,200 stages of the demo: at most 3.4
# where stages are forced, 4.2 where runs are free; 7.7 on random weights, in a norm of nearly
# constant channels. The least of the faults that tests plant gives 40.
FACTOR = 12.0

# Of stages whose floor nobody has measured, in free runs of 20 steps: from `design.md`, section 5,
# float32; the others in proportion to their rounding.
UNKNOWN = {"float64": 1e-4, "float32": 1e-4, "float16": 0.1, "bfloat16": 0.5}

NO_FLOORS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the relative L2 of stages.

    Args:
        dtype: The lower precision of the two runs.
        floors: By stage, the relative L2 that rounding makes (`ipa.parity.floors`).
        factor: How many times its floor a stage may be off.
        own: By stage, limits that take the place of those.
    """

    dtype: str = "float32"
    floors: Mapping[str, float] = field(default_factory=lambda: NO_FLOORS)
    factor: float = FACTOR
    own: Mapping[str, float] = field(default_factory=lambda: NO_FLOORS)

    def floor(self, stage: str) -> float | None:
        """What rounding makes, no less than that of a single number; None if nobody measured it."""
        known = self.floors.get(stage)
        return None if known is None else max(known, ROUNDING[self.dtype])

    def limit(self, stage: str) -> float:
        """What the relative L2 may be."""
        if stage in self.own:
            return self.own[stage]
        floor = self.floor(stage)
        return UNKNOWN[self.dtype] if floor is None else self.factor * floor


def lower(a: str, b: str) -> str:
    """The one of two dtypes that rounds more."""
    return max(a, b, key=lambda dtype: ROUNDING[dtype])
