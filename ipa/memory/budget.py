"""A memory budget as a person gives it: gibibytes, "auto", or none."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ipa.checks import is_finite
from ipa.errors import RequestError, shown

from .machine import MachineMemory
from .plan import GIB

Budget: TypeAlias = float | Literal["auto"] | None
"""Gibibytes (2³⁰ bytes); "auto": the share in `MachineMemory.automatic`; None: no limit."""

AUTO: Literal["auto"] = "auto"

LEAST, MOST = 0.0625, 4096.0
"""The range of a budget in GiB: 64 MiB, less than any model needs, to 4 TiB, more than machines
have."""


def check_budget(value: object) -> Budget:
    """A budget as it was given, its number plain.

    Raises:
        RequestError: It is no number from `LEAST` to `MOST`, nor "auto", nor None.
    """
    if value is None:
        return None
    if isinstance(value, str) and value == AUTO:
        return AUTO
    if is_finite(value) and LEAST <= value <= MOST:
        return float(value)
    raise RequestError(
        f'memory_budget must be GiB from {LEAST:g} to {MOST:g}, "auto", or None',
        found=shown(value),
        remedy="such as 4 or 5.5; ipa-mlx plan says what a run needs",
    )


def parse_budget(value: object, machine: MachineMemory) -> int | None:
    """A budget in bytes; None is no limit. Raises RequestError as `check_budget` does."""
    budget = check_budget(value)
    if budget is None:
        return None
    return machine.automatic if budget == AUTO else int(float(budget) * GIB)
