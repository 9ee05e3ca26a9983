"""Which layers an image prompt enters, as factors on λ per cross-attention site."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ipa.contract.base_sites import structure_name
from ipa.contract.errors import RequestError
from ipa.contract.sites import Site, Transformer, transformers
from ipa.contract.weights import Layers

from .presets import STYLE_LAYOUT
from .weight_types import FORMULAS, NOT_FACTORS, TABLES, WEAK, WEAK_SECTIONS

Doubles: TypeAlias = npt.NDArray[np.float64]
PerTransformer: TypeAlias = Mapping[Transformer, float]

_BY_BASE = {**STYLE_LAYOUT, **TABLES}

NAMES: tuple[str, ...] = (*STYLE_LAYOUT, *FORMULAS, *WEAK_SECTIONS, *TABLES)
"""Presets: InstantStyle's two, and ComfyUI's weight types. Between words a space, "_" or "-"."""

ANYWHERE: tuple[str, ...] = (*FORMULAS, *WEAK_SECTIONS)
"""The presets that fit every UNet; the others know SD1.5 and SDXL alone."""


def layer_factors(layers: Layers | None, sites: Sequence[Site]) -> Doubles:
    """Factors on λ, (S,) in float64, in the order of site numbers.

    Args:
        layers: None is 1 everywhere; the name of a preset; several joined by "+" or with factors in
            a dict, which are added; or ComfyUI's layer weights: "3:0.5, 6:1.0" by the number of the
            transformer in the order of execution, 0 for those not named.
        sites: The UNet's.

    Raises:
        RequestError: A preset is not known (the nearest is named), is known for other bases only,
            or is no factor; or a number or its weight is wrong.
    """
    if layers is None:
        return np.ones(len(sites))
    if isinstance(layers, str):
        if ":" in layers:
            return _per_site(_numbered(layers, transformers(sites)), sites)
        layers = dict.fromkeys(layers.split("+"), 1.0)
    total = np.zeros(len(sites))
    for name, factor in layers.items():
        total = total + factor * _per_site(_preset(name, sites), sites)
    return total


def _per_site(factors: PerTransformer, sites: Sequence[Site]) -> Doubles:
    return np.array([factors.get(site.transformer, 0.0) for site in sites], dtype=np.float64)


def _preset(name: str, sites: Sequence[Site]) -> PerTransformer:
    known = _spelled(name)
    order = transformers(sites)
    if known in FORMULAS:
        return {each: FORMULAS[known](t, len(order)) for t, each in enumerate(order)}
    if known in WEAK_SECTIONS:
        return {each: WEAK if each[0] in WEAK_SECTIONS[known] else 1.0 for each in order}
    base = structure_name(sites) or ""
    if base not in _BY_BASE[known]:
        raise RequestError(
            f"the layers of {known!r} are known for {' and '.join(_BY_BASE[known])} only",
            found=f"a UNet of another build, with {len(order)} transformers",
            remedy=f"weigh its layers yourself with scale=, or take one of {', '.join(ANYWHERE)}",
        )
    return {order[t]: factor for t, factor in _BY_BASE[known][base].items()}


def _spelled(name: str) -> str:
    """The preset that is meant, in its own spelling."""
    plain = _plain(name)
    spellings = {_plain(known): known for known in (*NAMES, *NOT_FACTORS)}
    known = spellings.get(plain, "")
    if known in NOT_FACTORS:
        raise RequestError(
            f"ComfyUI's {known!r} is no weight by layer",
            found="it also moves image tokens to the unconditional side",
            remedy=f"take {NOT_FACTORS[known]!r}",
        )
    if not known:
        nearest = difflib.get_close_matches(plain, spellings, n=1, cutoff=0.0)
        raise RequestError(
            "there is no preset of layers of this name",
            found=repr(name),
            remedy=f"did you mean {spellings[nearest[0]]!r}? All: {', '.join(NAMES)}",
        )
    return known


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())


def _numbered(text: str, order: Sequence[Transformer]) -> PerTransformer:
    """ComfyUI's "number:weight, …"."""
    factors: dict[Transformer, float] = {}
    for part in text.strip().strip(",").split(","):
        number, _, weight = part.partition(":")
        try:
            t, factor = int(number), float(weight)
        except ValueError:
            t, factor = -1, np.nan
        if not 0 <= t < len(order) or not np.isfinite(factor) or order[t] in factors:
            raise RequestError(
                "layer weights are number:weight, each number once, separated by commas",
                found=repr(part.strip()),
                remedy=f"this UNet's transformers are 0 to {len(order) - 1} in the order of "
                'execution: write "3:0.5, 6:1.0"',
            )
        factors[order[t]] = factor
    return factors
