"""Where λ enters an image prompt's attention: ComfyUI's embeds_scaling, its names and formulas.

    V only                   λ · Attn(Q, K, V)
    K+V                      Attn(Q, λK, λV)
    K+V w/ C penalty         the same with λ · C/1280 for λ
    K+mean(V) w/ C penalty   Attn(Q, λK, (V - mean V) + λ mean V), likewise; the mean is over tokens

C is the number of channels of a cross-attention. Facts: CrossAttentionPatch.py of
cubiq/ComfyUI_IPAdapter_plus.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import RequestError, shown

FULL_WIDTH = 1280  # channels of the inner layers of SD1.5 and SDXL, which have no penalty


@dataclass(frozen=True, slots=True)
class EmbedsScaling:
    """What λ multiplies.

    Attributes:
        is_inside: Keys and values, in place of what attention makes of them.
        is_of_mean: Of the values only their mean over the tokens.
        is_penalised: λ is multiplied by C/1280 before.
    """

    is_inside: bool = True
    is_of_mean: bool = False
    is_penalised: bool = False

    def weight(self, scale: float, channels: int) -> float:
        """What keys and values are multiplied by at a site of so many channels."""
        return scale * (channels / FULL_WIDTH) if self.is_penalised else scale


V_ONLY = "V only"
"""The default, and the published formula: λ multiplies the output, which is to multiply V."""

EMBEDS_SCALINGS: Mapping[str, EmbedsScaling] = {
    V_ONLY: EmbedsScaling(is_inside=False),
    "K+V": EmbedsScaling(),
    "K+V w/ C penalty": EmbedsScaling(is_penalised=True),
    "K+mean(V) w/ C penalty": EmbedsScaling(is_of_mean=True, is_penalised=True),
}


def check_embeds_scaling(name: object) -> str:
    """The mode that is meant, in its own spelling; case, and space, "-" or "_" do not matter.

    Raises:
        RequestError: There is none of this name; the nearest is named.
    """
    spellings = {_plain(known): known for known in EMBEDS_SCALINGS}
    plain = _plain(name) if isinstance(name, str) else ""
    if plain in spellings:
        return spellings[plain]
    near = difflib.get_close_matches(plain, spellings, n=1, cutoff=0.0 if plain else 1.0)
    guess = f"did you mean {spellings[near[0]]!r}? " if near else ""
    raise RequestError(
        "there is no embeds_scaling of this name",
        found=shown(name),
        remedy=f"{guess}All: {', '.join(EMBEDS_SCALINGS)}",
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())
