"""Limits of free runs that follow the run: what a stage may be off, by what it was given.

In a free run a stage inherits the error of those before, and rounding grows from step to step, by
how much one exact run tells badly: 40 times the floor has to be allowed at the end. But it does not
jump. A stage may be off by twice as many floors as the run was before it, and by what a stage makes
itself where it is forced. A norm's epsilon of 1e-5 for 1e-6 makes 4e-6, 80 times what the norm
itself rounds, 8 times what it inherits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ipa.backend.stages import level_of, split

from .limits import FACTOR, Limits
from .measures import Difference

# Measured between the backends in float32, free, on tiny models of SD's and SDXL's kind, both ways:
# stages are at most 2.6 times their floor in the first step, and take at most 0.42 of their limits.
LEAST = 1.5
"""The least distance, in floors, that a run is taken to be off."""

# Beyond what a stage makes itself, at most 0.61 was needed in those runs.
RISE = 2.0
"""The largest rise of a stage's distance, in floors, over the run before it."""


def risen(found: Iterable[Difference], limits: Limits) -> tuple[Difference, ...]:
    """Differences of free runs, in their order, with limits that follow the run.

    As they were where stages were forced, or floors of both kinds are not known. No limit becomes
    wider, and one that was given stays.
    """
    if limits.forced or not limits.local:
        return tuple(found)
    return tuple(_followed(found, limits))


def _followed(found: Iterable[Difference], limits: Limits) -> Iterator[Difference]:
    of_results, in_phase, phase = LEAST, LEAST, ""
    for one in found:
        if split(one.stage)[0] != phase:
            phase, in_phase = split(one.stage)[0], of_results
        local = limits.local.get(one.stage)
        if local is not None and one.floor is not None and one.stage not in limits.by_stage:
            limit = FACTOR * max(local, limits.rounding)
            one = _held(one, min(one.limit, RISE * in_phase * one.floor + limit + one.lost))
        yield one
        if one.ratio is not None and not one.bad and not one.lost:
            in_phase = max(in_phase, one.ratio)
            if level_of(one.stage) == "result":
                of_results = max(of_results, one.ratio)


def _held(one: Difference, limit: float) -> Difference:
    bad = not one.measures.finite or one.measures.relative_l2 > limit
    return replace(one, limit=limit, bad=bad)
