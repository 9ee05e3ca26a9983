"""Samplers as other tools call them, and the nearest of ours to a name that there is not.

A1111's names, which Draw Things has too, as diffusers' documentation sets them beside its own
schedulers, with their kinds of noise levels. A spelling may differ by case, blanks and signs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from .families import FAMILIES

OTHERS: Mapping[str, str] = {
    other: family for family, kind in FAMILIES.items() for other in kind.others
}
"""Other tools' names, with our family."""

_LEVELS: Mapping[str, str] = {
    "karras": "_karras",
    "exponential": "_exponential",
    "beta": "_beta",
}


_NEAR = 3  # names that are offered for one that there is not


def own_name(name: str, names: Sequence[str]) -> str:
    """Our name for a sampler, however it is spelled; an unknown name stays.

    Args:
        name: What was asked for.
        names: Our names.
    """
    if name in names:
        return name
    spelled = _spellings(names)
    return spelled.get(_plain(name), name)


def nearest(name: str, names: Sequence[str]) -> tuple[str, ...]:
    """The most similar of our names, the nearest first; of equally similar ones, the first."""
    plain, spelled = _plain(name), _spellings(names)
    likeness = {each: difflib.SequenceMatcher(None, each, plain).ratio() for each in spelled}
    sorted_names = sorted(spelled, key=lambda each: -likeness[each])
    return tuple(dict.fromkeys(spelled[each] for each in sorted_names))[:_NEAR]


def _spellings(names: Sequence[str]) -> dict[str, str]:
    """All normalised spellings, with our names."""
    ours = {_plain(name): name for name in names}
    for other, family in OTHERS.items():
        for word, ending in _LEVELS.items():
            if family + ending in names:
                ours.setdefault(_plain(other + word), family + ending)
        ours.setdefault(_plain(other), family)
    return ours


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp"))
