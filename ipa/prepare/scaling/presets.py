"""Presets of λ over a network's layers, by name: InstantStyle's and ComfyUI's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from ipa.errors import RequestError, shown
from ipa.model.sites import DEMO, Section, Site, is_demo, structure_name, transformers

Formula: TypeAlias = Callable[[int, int], float]
"""A function from (t, L) to a factor on λ."""


LEAST, REST, WEAK = 0.05, 0.95, 0.2


def _distance(t: int, length: int) -> float:
    """The distance from the middle of the network, in halves of it."""
    return abs(t - length / 2) / (length / 2)


FORMULAS: Mapping[str, Formula] = {
    "linear": lambda t, length: 1.0,
    "ease in": lambda t, length: LEAST + REST * (1 - t / length),
    "ease out": lambda t, length: LEAST + REST * (t / length),
    "ease in-out": lambda t, length: LEAST + REST * (1 - _distance(t, length)),
    "reverse in-out": lambda t, length: LEAST + REST * _distance(t, length),
}
"""Formulas by name: ease in is strongest where the network begins, ease out where it ends."""


WEAK_SECTIONS: Mapping[str, frozenset[Section]] = {
    "weak input": frozenset({"down"}),
    "weak middle": frozenset({"mid"}),
    "weak output": frozenset({"up"}),
    "strong middle": frozenset({"down", "up"}),
}
"""The sections that a "weak" preset gives a fifth of the weight."""


_SD15_OUTER = dict.fromkeys((*range(4), *range(9, 16)), 1.0)


_SD15_COMPOSITION = {4: 0.25, 5: 1.0}


_TENTH = 0.1


TABLES: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "style transfer": {"SD1.5": _SD15_OUTER, "SDXL": {6: 1.0}},
    "composition": {"SD1.5": _SD15_COMPOSITION, "SDXL": {3: 1.0}},
    "strong style transfer": {
        "SD1.5": {t: 1.0 for t in range(16) if t not in _SD15_COMPOSITION},
        "SDXL": {t: 1.0 for t in range(11) if t != 3},
    },
    "style and composition": {
        "SD1.5": _SD15_OUTER | _SD15_COMPOSITION,
        "SDXL": {3: 1.0, 6: 1.0},
    },
    "strong style and composition": {
        "SD1.5": dict.fromkeys(range(16), 1.0),
        "SDXL": dict.fromkeys(range(11), 1.0),
    },
    "style transfer precise": {
        "SD1.5": _SD15_OUTER | _SD15_COMPOSITION,
        "SDXL": {3: 1.0, 6: 1.0},
    },
    "composition precise": {
        "SD1.5": dict.fromkeys(range(16), _TENTH) | _SD15_OUTER | _SD15_COMPOSITION,
        "SDXL": dict.fromkeys(range(11), _TENTH) | {3: 1.0, 6: 1.0},
    },
}
"""Factors by t; where nothing is named, nothing enters. ComfyUI's weight_composition is a factor on
"composition", where {"style transfer": 1.0, "composition": 0.5} gives it. The two precise ones also
move tokens: `ipa.prepare.scaling.precise`."""


_COMPOSITION_AT = {"SD1.5": frozenset(_SD15_COMPOSITION), "SDXL": frozenset({3})}


COMPOSITION: Mapping[str, Mapping[str, frozenset[int]]] = {
    "style and composition": _COMPOSITION_AT,
    "strong style and composition": _COMPOSITION_AT,
}
"""Where ComfyUI puts weight_composition, which is 1 unless set, in the place of the weight."""


_DEMO_STYLE, _DEMO_LAYOUT = dict.fromkeys((0, 5, 6), 1.0), dict.fromkeys((1, 2, 3, 4), 1.0)


STYLE_LAYOUT: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "style": {"SDXL": {6: 1.0}, "SD1.5": TABLES["style transfer"]["SD1.5"], DEMO: _DEMO_STYLE},
    "layout": {"SDXL": {3: 1.0}, "SD1.5": TABLES["composition"]["SD1.5"], DEMO: _DEMO_LAYOUT},
}
"""Factors by the number of the transformer in the order of execution, for each base."""


Numbers = TypeVar("Numbers")


NAMES: tuple[str, ...] = (*STYLE_LAYOUT, *FORMULAS, *WEAK_SECTIONS, *TABLES)
"""The names of presets: InstantStyle's two, and ComfyUI's. Between words a space, "_" or "-"."""


ANYWHERE: tuple[str, ...] = (*FORMULAS, *WEAK_SECTIONS)
"""The presets that fit every UNet; the others know SD1.5 and SDXL alone, style and
layout the demo too."""


def preset_name(name: str) -> str:
    """The preset that is meant, in its own spelling.

    Raises:
        RequestError: There is none; the nearest is named.
    """
    plain = plain_name(name)
    spellings = {plain_name(preset): preset for preset in NAMES}
    if plain not in spellings:
        nearest = difflib.get_close_matches(plain, spellings, n=1, cutoff=0.0)
        raise RequestError(
            "there is no preset of layers of this name",
            found=shown(name),
            remedy=f"did you mean {spellings[nearest[0]]!r}? All: {', '.join(NAMES)}",
        )
    return spellings[plain]


def plain_name(name: str) -> str:
    """A name in lower case, without the signs that may differ in its spelling."""
    return re.sub(r"[\s_-]+", " ", name.strip().lower())


def of_base(name: str, by_base: Mapping[str, Numbers], sites: Sequence[Site]) -> Numbers:
    """A table's entry for the base that a UNet is built as.

    Raises:
        RequestError: It is built otherwise.
    """
    base = DEMO if is_demo(sites) else structure_name(sites) or ""
    if base not in by_base:
        bases = " and ".join(base for base in by_base if base != DEMO)
        raise RequestError(
            f"the layers of {name!r} are known for {bases} only",
            found=f"a UNet of another build, with {len(transformers(sites))} transformers",
            remedy=f"weigh its layers yourself with scale=, or take one of {', '.join(ANYWHERE)}",
        )
    return by_base[base]
