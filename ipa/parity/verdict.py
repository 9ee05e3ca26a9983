"""What a comparison says, in one sentence."""

from __future__ import annotations

from .comparison import Comparison
from .difference import Difference
from .explanation import explain_phase, explain_stage
from .figures import short

__all__ = ["explain_stage", "parting", "place", "verdict", "worst"]

_FULL = frozenset({"float32", "float64"})


def verdict(comparison: Comparison) -> str:
    """Whether b follows a, how closely, and where they part or are furthest apart.

    One sentence, or a few short ones, for a person who knows none of the names. It claims nothing
    of what was not compared: without a common stage it says so, and it counts the stages that only
    one run has.
    """
    first, far = parting(comparison), worst(comparison)
    if first is not None:
        said = _parted(comparison, first)
    elif far is not None:
        said = _followed(comparison, far)
    else:
        return "Nothing was compared: the two runs have no stage in common."
    alone = len(comparison.only_a) + len(comparison.only_b)
    if alone:
        said += f" Not compared: {_counted(alone, 'stage')} that only one run has."
    return said


def parting(comparison: Comparison) -> Difference | None:
    """Where the runs part: the first stage that is bad, or that is not finite."""
    if comparison.first_of is not None:
        return comparison.first_bad
    return next((d for d in comparison.differences if d.bad or not d.measures.finite), None)


def worst(comparison: Comparison) -> Difference | None:
    """The difference that is most times its floor; without floors, the largest share of its limit.

    Only finite ones count; None where there are none.
    """
    found = [one for one in comparison.differences if one.measures.finite]
    with_floor = [one for one in found if one.ratio is not None]
    if with_floor:
        return max(with_floor, key=lambda one: one.ratio or 0.0)
    return max(found, key=lambda one: one.measures.relative_l2 / (one.limit or 1.0), default=None)


def place(difference: Difference) -> str:
    """Where a stage is: 'at step 0 in unet.conv_in (the first convolution, in the UNet)'."""
    path = difference.stage.partition("/")[2] or difference.stage
    return f"{explain_phase(difference.stage)} in {path} ({explain_stage(difference.stage)})"


def _parted(comparison: Comparison, first: Difference) -> str:
    if first.measures.finite:
        about = "about " if first.sketched else ""
        how = f"relative L2 {about}{short(first.measures.relative_l2)}, limit {short(first.limit)}"
    else:
        how = f"not every number of {comparison.b.name} or {comparison.a.name} is finite there"
    is_first = first is comparison.differences[0]
    before = "It is the first stage of all." if is_first else "Everything before agrees."
    return f"They part {place(first)}: {how}. {before}"


def _followed(comparison: Comparison, far: Difference) -> str:
    a, b, found = comparison.a, comparison.b, comparison.differences
    count = _counted(len(found), "stage")
    if all(one.measures.max_abs == 0.0 and not one.sketched for one in found):
        return f"{b.name} gives the same as {a.name}, number for number, in {count}."
    if far.ratio is not None:
        lossy = a.dtype if b.dtype in _FULL and a.dtype not in _FULL else b.dtype
        how = f"at most {short(far.ratio)} times what {lossy} itself loses"
    else:
        how = f"relative L2 at most {short(far.measures.relative_l2)}, limit {short(far.limit)}"
    return f"{b.name} follows {a.name} in {count}: {how}; worst {place(far)}."


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
