"""FaceID's LoRA: a low-rank change of every attention, computed beside weights that stay.

W x becomes W x + s · up (down x), for to_q, to_k, to_v and to_out of self- and cross-attention
(ip_adapter/attention_processor_faceid.py). Those of several adapters add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn

from ipa.model.sites import Site

PARTS = ("to_q", "to_k", "to_v", "to_out")


@dataclass(frozen=True, slots=True)
class LowRank:
    """Matrices down (r, inputs), up (outputs, r), strength included; r is the sum of all ranks."""

    down: mx.array
    up: mx.array

    def __call__(self, x: mx.array) -> mx.array:
        """(…, inputs) to (…, outputs)."""
        return (x @ self.down.T) @ self.up.T


Changes: TypeAlias = Mapping[str, LowRank]
"""The changes of one attention's layers, by name."""

UNCHANGED: Changes = {}


@dataclass(frozen=True, slots=True)
class SiteChanges:
    """The changes of the self- and the cross-attention of one transformer block."""

    attn1: Changes
    attn2: Changes


def changed(layer: nn.Module, x: mx.array, change: LowRank | None) -> mx.array:
    """A layer's output, with its change if there is one."""
    return layer(x) if change is None else layer(x) + change(x)


def site_changes(
    loras: Iterable[tuple[Mapping[str, mx.array], float]], sites: Sequence[Site]
) -> tuple[SiteChanges, ...]:
    """The changes of adapters at every site, in the order of site numbers.

    Args:
        loras: Per adapter its matrices, "<path>.to_q.down.weight" and so on, and its strength.
        sites: The UNet's.

    Returns:
        Nothing if there are no adapters.
    """
    given = list(loras)
    if not given:
        return ()
    return tuple(
        SiteChanges(_changes(given, site.self_attention[1]), _changes(given, site.path))
        for site in sites
    )


def _changes(loras: Sequence[tuple[Mapping[str, mx.array], float]], path: str) -> Changes:
    return {
        part: LowRank(
            mx.concatenate([m[f"{path}.{part}.down.weight"] for m, _ in loras]),
            mx.concatenate([m[f"{path}.{part}.up.weight"] * s for m, s in loras], axis=1),
        )
        for part in PARTS
    }
