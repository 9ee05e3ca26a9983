"""FaceID's LoRA: a low-rank change of every attention, computed beside weights that stay.

W x becomes W x + s · up (down x), for to_q, to_k, to_v and to_out of self- and cross-attention
(ip_adapter/attention_processor_faceid.py). Those of several adapters add up, one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ipa.model.sites import Site

PARTS = ("to_q", "to_k", "to_v", "to_out")


@dataclass(frozen=True, slots=True)
class LowRank:
    """Low-rank matrices down (r, inputs), up (outputs, r), and the strength."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(…, inputs) to (…, outputs)."""
        return self.scale * ((x @ self.down.T) @ self.up.T)


Changes: TypeAlias = Mapping[str, tuple[LowRank, ...]]
"""The changes of one attention's layers by name, one for each adapter."""

UNCHANGED: Changes = {}


@dataclass(frozen=True, slots=True)
class SiteChanges:
    """The changes of the self- and the cross-attention of one transformer block."""

    attn1: Changes
    attn2: Changes


def changed(
    layer: torch.nn.Module, x: torch.Tensor, changes: tuple[LowRank, ...] = ()
) -> torch.Tensor:
    """A layer's output, with its changes."""
    out = layer(x)
    for change in changes:
        out = out + change(x)
    return out


def site_changes(
    loras: Iterable[tuple[Mapping[str, torch.Tensor], float]], sites: Sequence[Site]
) -> tuple[SiteChanges, ...]:
    """The changes of adapters at every site, in the order of site numbers.

    Args:
        loras: Per adapter its matrices by their names in the file, "<number>.to_q_lora.up.weight"
            and so on, and its strength.
        sites: The UNet's.

    Returns:
        Nothing if there are no adapters.
    """
    given = list(loras)
    if not given:
        return ()
    return tuple(
        SiteChanges(_changes(given, site.self_attention[0]), _changes(given, site.number))
        for site in sites
    )


def _changes(loras: Sequence[tuple[Mapping[str, torch.Tensor], float]], number: int) -> Changes:
    return {
        part: tuple(
            LowRank(
                matrices[f"{number}.{part}_lora.down.weight"],
                matrices[f"{number}.{part}_lora.up.weight"],
                scale,
            )
            for matrices, scale in loras
        )
        for part in PARTS
    }
