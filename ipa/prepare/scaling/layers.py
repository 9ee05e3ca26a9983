"""Which layers an image prompt enters, as factors on λ per cross-attention site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from ipa.arrays import Doubles
from ipa.errors import RequestError
from ipa.model.sites import Site, Transformer, transformers
from ipa.request.scales import Layers

from .precise import PreciseType, moved_sites, precise_type
from .presets import (
    COMPOSITION,
    FORMULAS,
    STYLE_LAYOUT,
    TABLES,
    WEAK,
    WEAK_SECTIONS,
    of_base,
    preset_name,
)

PerTransformer: TypeAlias = Mapping[Transformer, float]


_BY_BASE = {**STYLE_LAYOUT, **TABLES}


def layer_factors(layers: Layers | None, sites: Sequence[Site]) -> Doubles:
    """The factors on λ, (S,) in float64, in the order of site numbers.

    Args:
        layers: None is 1 everywhere; the name of a preset; several joined by "+" or with factors in
            a dict, which are added; a precise weight type, alone or in a dict with its "boost"
            (`precise`); or ComfyUI's layer weights: "3:0.5, 6:1.0" by the number of the transformer
            in the order of execution, 0 for those not named.
        sites: The UNet's.

    Raises:
        RequestError: A preset is not known (the nearest is named), is known for other bases only,
            or stands beside others where it must stand alone; or a number or its weight is wrong.
    """
    if layers is None:
        return np.ones(len(sites))
    if isinstance(layers, str):
        if ":" in layers:
            return _per_site(_numbered(layers, transformers(sites)), sites)
        layers = dict.fromkeys(layers.split("+"), 1.0)
    precise = precise_type(layers)
    if precise is not None:
        return _precise(precise, layers, sites)
    total = np.zeros(len(sites))
    for name, factor in layers.items():
        total = total + factor * _per_site(_preset(name, sites), sites)
    return total


def composition_factors(layers: Layers | None, sites: Sequence[Site]) -> Doubles:
    """The composition part of `layer_factors` for "style and composition", (S,).

    It is 0 elsewhere: where another preset stands beside it, all of them are weighed alike.
    """
    given = dict.fromkeys([layers], 1.0) if isinstance(layers, str) else layers or {}
    names = [name for name in given if ":" not in name and "+" not in name]
    if len(names) != 1 or len(given) != 1 or preset_name(names[0]) not in COMPOSITION:
        return np.zeros(len(sites))
    name = preset_name(names[0])
    numbers = of_base(name, _BY_BASE[name], sites)
    order = transformers(sites)
    factors = {order[t]: numbers[t] for t in of_base(name, COMPOSITION[name], sites)}
    return given[names[0]] * _per_site(factors, sites)


def _per_site(factors: PerTransformer, sites: Sequence[Site]) -> Doubles:
    return np.array([factors.get(site.transformer, 0.0) for site in sites], dtype=np.float64)


def _preset(name: str, sites: Sequence[Site]) -> PerTransformer:
    preset = preset_name(name)
    order = transformers(sites)
    if preset in FORMULAS:
        return {each: FORMULAS[preset](t, len(order)) for t, each in enumerate(order)}
    if preset in WEAK_SECTIONS:
        return {each: WEAK if each[0] in WEAK_SECTIONS[preset] else 1.0 for each in order}
    numbers = of_base(preset, _BY_BASE[preset], sites)
    return {order[t]: factor for t, factor in numbers.items()}


def _precise(precise: PreciseType, layers: Layers, sites: Sequence[Site]) -> Doubles:
    """A precise type's table times the weight; times the boost at the layers that it moves."""
    factors = _per_site(_preset(precise.name, sites), sites)
    is_moved = np.array(moved_sites(layers, sites))
    return factors * np.where(is_moved, precise.boost, precise.weight)


def _numbered(text: str, order: Sequence[Transformer]) -> PerTransformer:
    """Parse ComfyUI's "number:weight, …"."""
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
