"""ComfyUI_IPAdapter_plus' weight types that are a factor per layer, with its names and formulas.

t counts the transformers in the order of execution and L is their number: 16 for SD1.5, 11 for
SDXL. The formulas hold for any UNet, the tables for the two bases that they were found on. Facts:
CrossAttentionPatch.py and IPAdapterPlus.py of cubiq/ComfyUI_IPAdapter_plus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from ipa.contract.sites import Section

Formula: TypeAlias = Callable[[int, int], float]
"""(t, L) to a factor."""

LEAST, REST, WEAK = 0.05, 0.95, 0.2


def _distance(t: int, length: int) -> float:
    """From the middle of the network, in halves of it."""
    return abs(t - length / 2) / (length / 2)


FORMULAS: Mapping[str, Formula] = {
    "linear": lambda t, length: 1.0,
    "ease in": lambda t, length: LEAST + REST * (1 - t / length),
    "ease out": lambda t, length: LEAST + REST * (t / length),
    "ease in-out": lambda t, length: LEAST + REST * (1 - _distance(t, length)),
    "reverse in-out": lambda t, length: LEAST + REST * _distance(t, length),
}
"""Ease in is strongest where the network begins, ease out where it ends; there it stays below 1."""

WEAK_SECTIONS: Mapping[str, frozenset[Section]] = {
    "weak input": frozenset({"down"}),
    "weak middle": frozenset({"mid"}),
    "weak output": frozenset({"up"}),
    "strong middle": frozenset({"down", "up"}),
}
"""Sections with a fifth of the weight."""

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
move tokens: `ipa.prepare.moved`."""

_COMPOSITION_AT = {"SD1.5": frozenset(_SD15_COMPOSITION), "SDXL": frozenset({3})}
COMPOSITION: Mapping[str, Mapping[str, frozenset[int]]] = {
    "style and composition": _COMPOSITION_AT,
    "strong style and composition": _COMPOSITION_AT,
}
"""Where ComfyUI puts weight_composition, which is 1 unless set, in the place of the weight."""
