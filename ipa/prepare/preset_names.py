"""Presets of layers by name: which there are, how they may be spelled, which UNets they know."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ipa.contract.base_sites import DEMO, is_demo, structure_name
from ipa.contract.errors import RequestError, shown
from ipa.contract.sites import Site, transformers

from .presets import STYLE_LAYOUT
from .weight_types import FORMULAS, TABLES, WEAK_SECTIONS

Numbers = TypeVar("Numbers")

NAMES: tuple[str, ...] = (*STYLE_LAYOUT, *FORMULAS, *WEAK_SECTIONS, *TABLES)
"""Presets: InstantStyle's two, and ComfyUI's weight types. Between words a space, "_" or "-"."""

ANYWHERE: tuple[str, ...] = (*FORMULAS, *WEAK_SECTIONS)
"""The presets that fit every UNet; the others know SD1.5 and SDXL alone, style and
layout the demo too."""


def preset_name(name: str) -> str:
    """The preset that is meant, in its own spelling.

    Raises:
        RequestError: There is none; the nearest is named.
    """
    plain = plain_name(name)
    spellings = {plain_name(known): known for known in NAMES}
    if plain not in spellings:
        nearest = difflib.get_close_matches(plain, spellings, n=1, cutoff=0.0)
        raise RequestError(
            "there is no preset of layers of this name",
            found=shown(name),
            remedy=f"did you mean {spellings[nearest[0]]!r}? All: {', '.join(NAMES)}",
        )
    return spellings[plain]


def plain_name(name: str) -> str:
    """A name without what may differ in its spelling."""
    return re.sub(r"[\s_-]+", " ", name.strip().lower())


def of_base(name: str, by_base: Mapping[str, Numbers], sites: Sequence[Site]) -> Numbers:
    """What a table says of the base that a UNet is built as.

    Raises:
        RequestError: It is built otherwise.
    """
    base = DEMO if is_demo(sites) else structure_name(sites) or ""
    if base not in by_base:
        known = " and ".join(base for base in by_base if base != DEMO)
        raise RequestError(
            f"the layers of {name!r} are known for {known} only",
            found=f"a UNet of another build, with {len(transformers(sites))} transformers",
            remedy=f"weigh its layers yourself with scale=, or take one of {', '.join(ANYWHERE)}",
        )
    return by_base[base]
