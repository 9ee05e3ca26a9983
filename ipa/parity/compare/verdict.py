"""The verdict on a comparison: one value, which every report reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ipa.backend.stages import PLACE, explain_phase, explain_stage, kind_of

from .measures import Difference

_LONG = 1e5


def short(value: float, digits: int = 2) -> str:
    """A number with some significant digits: "0.31", "2e-6", "290", "inf", "nan"."""
    if 10**digits <= abs(value) < _LONG:
        return f"{value:.0f}"
    return re.sub(r"e([+-])0*(\d)", lambda e: f"e{e[1].strip('+')}{e[2]}", f"{value:.{digits}g}")


MOST_KINDS = 4
"""The most kinds of stages that the sentence names."""


_PROMPT = re.compile(r"(?<![a-z])image\.\d+")


_MANY = 99.5


_NUMBER = re.compile(r"\.\d+")


@dataclass(frozen=True, slots=True)
class BadKind:
    """Bad stages of one kind: `name` is theirs without the place in the network.

    `first` is that which is computed first, `worst` that which takes most of its limit.
    """

    name: str
    count: int
    first: Difference
    worst: Difference


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether b follows a, and if not, where they part and in how many kinds of stages.

    Attributes:
        ok: Something was compared and nothing is bad.
        sentence: All of it, for a person; it claims nothing of what was not compared.
        first: The stage at which they part: what a stage is made of is computed before it, so the
            first bad one is the deepest. None where all is well.
        worst: The stage that takes most of its limit, bad or not; None where nothing was compared.
        kinds: Of bad stages, in the order of computation. A fault that comes first hides no other.
        compared: How many stages both runs have.
        bad: How many of them are bad.
    """

    ok: bool
    sentence: str
    first: Difference | None
    worst: Difference | None
    kinds: tuple[BadKind, ...]
    compared: int
    bad: int


def verdict_of(a: str, b: str, found: Sequence[Difference], alone: int) -> Verdict:
    """The verdict on b against a, by their names; `alone` stages are in one of the runs only."""
    bad = [one for one in found if one.bad]
    first = bad[0] if bad else None
    worst = max(found, key=lambda one: one.share, default=None)
    kinds = _kinds(bad)
    said = _sentence(a, b, found, first, worst, kinds)
    if alone:
        said = f"{said} Not compared: {alone:,} that only one run has."
    return Verdict(bool(found) and not bad, said, first, worst, kinds, len(found), len(bad))


def kind_name(stage: str) -> str:
    """A stage less its phase, its place in the network, and its run: "unet.….ff.net.0"."""
    path = (stage.partition("/")[2] or stage).partition("@")[0]
    if kind_of(path) is None:
        return _NUMBER.sub("", path)
    place = PLACE.search(path)
    if place is not None:
        rest = path[place.end() :] or _last(place[0])
        path = f"{path[: place.start()]}.….{rest}"
    return _PROMPT.sub("image", path)


def place(difference: Difference) -> str:
    """A stage by its name, with what it is and when in words."""
    stage = difference.stage
    if kind_of(stage) is None:
        return stage
    return f"{stage} ({explain_stage(stage)}, {explain_phase(stage)})"


def size(difference: Difference) -> str:
    """A stage's distance, in words."""
    if not difference.measures.finite:
        return "NaN or infinity"
    about = "about " if difference.sketched else ""
    found = short(difference.measures.relative_l2)
    words = f"relative L2 {about}{found} of {short(difference.limit)} allowed"
    ratio = difference.ratio
    return words if ratio is None else f"{words}, {_times(ratio, 'floor')}"


def _kinds(bad: Sequence[Difference]) -> tuple[BadKind, ...]:
    groups: dict[str, list[Difference]] = {}
    for one in bad:
        groups.setdefault(kind_name(one.stage), []).append(one)
    return tuple(
        BadKind(name, len(group), group[0], max(group, key=lambda one: one.share))
        for name, group in groups.items()
    )


def _sentence(
    a: str,
    b: str,
    found: Sequence[Difference],
    first: Difference | None,
    worst: Difference | None,
    kinds: Sequence[BadKind],
) -> str:
    if worst is None:
        return "Nothing was compared: the two runs have no stage in common."
    if first is not None:
        counted = _counted(len(found), kinds)
        return f"{b} departs from {a} at {place(first)}: {size(first)}; {counted}."
    if all(one.measures.max_abs == 0.0 and not one.sketched for one in found):
        return f"{b} gives the same as {a}, number for number, in {_stages(len(found))}."
    return (
        f"{b} agrees with {a}: all {_stages(len(found))} are within their limits, the worst, "
        f"{place(worst)}, at {size(worst)}."
    )


def _stages(count: int) -> str:
    return f"{count:,} stage{'' if count == 1 else 's'}"


def _counted(compared: int, kinds: Sequence[BadKind]) -> str:
    bad = sum(kind.count for kind in kinds)
    counted = f"{bad:,} of {_stages(compared)} {'is' if bad == 1 else 'are'} bad"
    if bad == 1:
        return counted
    if len(kinds) == 1:
        return f"{counted}, all of the kind {_told(kinds[0])}"
    shown = _shown(kinds)
    more = len(kinds) - len(shown)
    rest = f" and {more:,} more" if more else ""
    return f"{counted}, of {len(kinds):,} kinds: {', '.join(map(_told, shown))}{rest}"


def _shown(kinds: Sequence[BadKind]) -> list[BadKind]:
    """The first bad stage and the worst of the others, in their order."""
    others = sorted(kinds[1:], key=lambda kind: kind.worst.share, reverse=True)
    chosen = {kind.name for kind in (kinds[0], *others[: MOST_KINDS - 1])}
    return [kind for kind in kinds if kind.name in chosen]


def _told(kind: BadKind) -> str:
    worst = kind.worst
    if not worst.measures.finite:
        how = "NaN or infinity"
    elif worst.ratio is not None:
        how = _times(worst.ratio, "floor")
    else:
        how = _times(worst.share, "limit")
    return f"{kind.name} ×{kind.count:,} ({'' if kind.count == 1 else 'worst '}{how})"


def _times(factor: float, of: str) -> str:
    return f"{factor:,.0f} × {of}" if factor >= _MANY else f"{short(factor)} × {of}"


def _last(place: str) -> str:
    """The last part of a module's place that names it: "resnets", "mid_block"."""
    names = [part for part in place.split(".") if part and not part.isdigit()]
    return names[-1]


def notable(differences: Sequence[Difference]) -> Iterator[Difference]:
    """Bad stages in the order of computation; where there are none, those nearest to a limit."""
    bad = [one for one in differences if one.bad]
    return iter(bad or worst_first(differences))


def worst_first(differences: Sequence[Difference]) -> list[Difference]:
    """Stages by their share of the limit, the largest first."""
    return sorted(differences, key=lambda one: one.share, reverse=True)
