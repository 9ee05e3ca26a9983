"""The conditioning of the UNet: text states, and image keys and values, once per generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from ipa.arrays import Floats
from ipa.backend.protocol import Branch
from ipa.request.scales import EMBEDS_SCALINGS

from .networks.context import KeyValue
from .networks.low_rank import SiteChanges

if TYPE_CHECKING:
    from .controls import ConditionedAdapter, ConditionedControl


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Text states (R, 77, D), and each image prompt's keys and values by site.

    The text's own keys and values are left to diffusers' modules. R is 2 if guided (unconditional
    first), else 1. `added` is what diffusers calls added_cond_kwargs, for SDXL: pooled text (R, P)
    and six numbers (R, 6). `changes` are those of FaceID's LoRA, by site; () without. `pictures`
    says how many each image prompt has. `guidance` is diffusers' timestep_cond, of one row.
    """

    text: torch.Tensor
    images: tuple[tuple[KeyValue, ...], ...]
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)
    changes: tuple[SiteChanges, ...] = ()
    pictures: tuple[int, ...] = ()
    controls: tuple[ConditionedControl | ConditionedAdapter, ...] = ()
    channels: torch.Tensor | None = None
    guidance: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        """The number of conditioning rows, R."""
        return int(self.text.shape[0])

    def conditional(self) -> Conditioning:
        """The conditional row alone."""
        return replace(
            self,
            text=self.text[-1:],
            images=tuple(tuple(pair.conditional() for pair in pairs) for pairs in self.images),
            added={name: rows[-1:] for name, rows in self.added.items()},
            controls=tuple(control.conditional() for control in self.controls),
        )

    def repeated(self, count: int) -> Conditioning:
        """Each row `count` times, for as many pictures: all unconditional rows come first."""
        if count == 1:
            return self
        images = tuple(tuple(pair.repeated(count) for pair in pairs) for pairs in self.images)
        added = {name: row.repeat_interleave(count, dim=0) for name, row in self.added.items()}
        text = self.text.repeat_interleave(count, dim=0)
        return replace(self, text=text, images=images, added=added)


def masked(
    pairs: tuple[KeyValue, ...], masks: Sequence[Floats | None] | None
) -> tuple[KeyValue, ...]:
    """Keys and values with the masks of their sites, in the precision of the values."""
    if masks is None:
        return pairs
    return tuple(
        pair if mask is None else replace(pair, mask=torch.tensor(mask[:, None]).to(pair.values))
        for pair, mask in zip(pairs, masks, strict=True)
    )


def steered(pairs: tuple[KeyValue, ...], branch: Branch) -> tuple[KeyValue, ...]:
    """An image prompt's keys and values with all that its branch says of them."""
    scaling = EMBEDS_SCALINGS[branch.embeds_scaling]
    is_moved = branch.moved or (False,) * len(pairs)
    there = (_to_unconditional(p) if m else p for p, m in zip(pairs, is_moved, strict=True))
    return masked(tuple(replace(pair, scaling=scaling) for pair in there), branch.masks)


def _to_unconditional(pair: KeyValue) -> KeyValue:
    """Tokens moved to the unconditional row; the conditional row gets zeros, which add 0."""
    return replace(pair, keys=_moved(pair.keys), values=_moved(pair.values))


def _moved(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows[-1:], torch.zeros_like(rows[-1:])])[-len(rows) :]
