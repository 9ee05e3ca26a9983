"""ComfyUI's "precise" weight types: layers where image tokens go to the unconditional side.

There guidance steers away from the picture instead of towards it: the unconditional half sees its
tokens, and the conditional half sees tokens of zeros. So the style of a picture is taken without
its layout, or the reverse. Facts: CrossAttentionPatch.py of cubiq/ComfyUI_IPAdapter_plus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipa.errors import RequestError
from ipa.model.sites import Site, transformers
from ipa.request.scales import Layers

from .presets import of_base, plain_name, preset_name

BOOST = "boost"

_LAYOUT = {"SD1.5": frozenset({4, 5}), "SDXL": frozenset({3})}
_REST = {
    "SD1.5": frozenset(range(16)) - _LAYOUT["SD1.5"],
    "SDXL": frozenset(range(11)) - _LAYOUT["SDXL"],
}

MOVED: Mapping[str, Mapping[str, frozenset[int]]] = {
    "style transfer precise": _LAYOUT,
    "composition precise": _REST,
}
"""The transformers whose tokens a precise type moves, by t: see `ipa.prepare.scaling.presets`."""


@dataclass(frozen=True, slots=True)
class PreciseType:
    """A precise weight type: its factor on λ, and the one at the layers that it moves.

    With scale=1 they are ComfyUI's weight, and its style_boost or composition_boost.
    """

    name: str
    weight: float
    boost: float


def precise_type(layers: Layers | None) -> PreciseType | None:
    """The precise weight type that `layers` names; None for other layers.

    "style transfer precise", or {"style transfer precise": 1.0, "boost": 0.5}; without "boost" it
    is the weight.

    Raises:
        RequestError: It is named together with others: tokens stand on one side of a layer. Or
            "boost" stands without it.
    """
    if layers is None or (isinstance(layers, str) and ":" in layers):
        return None
    given = dict.fromkeys(layers.split("+"), 1.0) if isinstance(layers, str) else layers
    boosts = [factor for name, factor in given.items() if plain_name(name) == BOOST]
    others = [(preset_name(n), factor) for n, factor in given.items() if plain_name(n) != BOOST]
    name = next((name for name, _ in others if name in MOVED), None)
    if name is None and not boosts:
        return None
    if name is None or len(others) > 1 or len(boosts) > 1:
        raise RequestError(
            "a precise weight type, which moves image tokens to the unconditional side, stands "
            f'alone or with its "{BOOST}"',
            found=" and ".join(given),
            remedy=f'write {{"{name or "style transfer precise"}": 1.0, "{BOOST}": 0.5}}, or make '
            "it an image prompt of its own",
        )
    weight = others[0][1]
    return PreciseType(name, weight, boosts[0] if boosts else weight)


def moved_sites(layers: Layers | None, sites: Sequence[Site]) -> tuple[bool, ...] | None:
    """Whether tokens are moved, for each site in the order of numbers; None is nowhere.

    Raises:
        RequestError: See `precise_type`; or the UNet is built otherwise than the type knows.
    """
    precise = precise_type(layers)
    if precise is None:
        return None
    numbers = of_base(precise.name, MOVED[precise.name], sites)
    order = transformers(sites)
    return tuple(order.index(site.transformer) in numbers for site in sites)
