"""One layer under several names in one file: one of them is used, and the others are listed.

Some tools save a layer twice. diffusers 0.42 takes names with dots (its own, PEFT's) where there
are any, else those of its own blocks, and drops every name of the original blocks as soon as one of
its own is there, also of layers that have no other name; here these are used. Of names that it
treats alike the last wins, files of safetensors being sorted by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ipa.model.lora import DIFFERENT, EQUAL

from ..containers.dtypes import WEIGHTS
from ..containers.stored import Stored
from ..containers.values import cast
from .alpha import scalar
from .names import Key, Role

_ORIGINAL = re.compile(
    r"input_blocks|middle_block|output_blocks|label_emb|time_embed[._]\d"
    r"|(?:unet_|diffusion_model\.)out[._]\d"
)


@dataclass(frozen=True, slots=True)
class Spelled:
    """The tensors of one layer under one name, with the suffixes of one tool."""

    stem: str
    parts: Mapping[Role, Stored]

    @property
    def is_whole(self) -> bool:
        """Whether both matrices of the pair are there."""
        return {"down", "up"} <= self.parts.keys()

    @property
    def rank(self) -> tuple[int, str]:
        """The rank of the pair; the largest is used."""
        if _ORIGINAL.search(self.stem):
            return 0, self.parts["down"].name
        return 2 if "." in self.stem else 1, self.parts["down"].name


class Spellings:
    """All that a file has of one layer, by the names that it has for it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[Role, Stored]] = {}

    def put(self, key: Key, stored: Stored) -> Stored | None:
        """Add a tensor; returns one that stands there already under the same name."""
        parts = self._found.setdefault((key.stem, key.spelling), {})
        return None if parts.setdefault(key.role, stored) is stored else parts[key.role]

    def chosen(self) -> tuple[Mapping[Role, Stored], dict[str, str]]:
        """The tensors to use, and the names of the others with the reason.

        Where something is amiss under one of the names, these tensors are given, for the message.
        """
        alphas = {stem: parts for (stem, word), parts in self._found.items() if not word}
        named = [
            Spelled(stem, {**parts, **alphas.get(stem, {})})
            for (stem, word), parts in self._found.items()
            if word
        ]
        stems = {spelled.stem for spelled in named}
        amiss = [spelled.parts for spelled in named if not spelled.is_whole]
        amiss += [parts for stem, parts in alphas.items() if stem not in stems]
        if amiss:
            return amiss[0], {}
        best = max(named, key=lambda spelled: spelled.rank)
        used = {id(stored) for stored in best.parts.values()}
        return best.parts, {
            stored.name: EQUAL if _is_same(best.parts, other.parts) else DIFFERENT
            for other in named
            for stored in other.parts.values()
            if id(stored) not in used
        }


def _is_same(one: Mapping[Role, Stored], other: Mapping[Role, Stored]) -> bool:
    """Whether two pairs are the same numbers, with the same alpha."""
    alphas = [scalar(parts["alpha"]) if "alpha" in parts else None for parts in (one, other)]
    return alphas[0] == alphas[1] and all(_is_equal(one[r], other[r]) for r in ("down", "up"))


def _is_equal(one: Stored, other: Stored) -> bool:
    if one.dtype not in WEIGHTS or other.dtype not in WEIGHTS:
        return False
    values = [cast(t.array(), t.dtype, "F32", t.name).reshape(-1) for t in (one, other)]
    return np.array_equal(values[0], values[1])
