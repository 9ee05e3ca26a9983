"""The part of a schedule that a run from a picture goes through."""

from __future__ import annotations

from dataclasses import replace

from ipa.contract.errors import RequestError
from ipa.contract.schedule import Schedule


def from_strength(schedule: Schedule, strength: float | None) -> Schedule:
    """The last int(n · strength) rows, as in diffusers' get_timesteps.

    None, and 1, are all of them.

    The first of them has no step before it. A multistep row's w (d − d_previous) is then 0, which
    leaves its first-order form.

    Raises:
        RequestError: No row is left.
    """
    if strength is None:
        return schedule
    count = len(schedule.steps)
    kept = min(int(count * strength), count)
    if kept < 1:
        raise RequestError(
            "strength leaves no step to run",
            found=f"{strength:g} of num_inference_steps={count}",
            remedy=f"a strength of {1 / count:.2g} or more, or more steps",
        )
    if kept == count:
        return schedule
    first, *rest = schedule.steps[-kept:]
    first = replace(first, x_denoised=first.x_denoised + first.x_previous, x_previous=0.0)
    return replace(schedule, steps=(first, *rest))
