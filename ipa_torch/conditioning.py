"""What the UNet attends to: text states, and image keys and values computed once per generation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from ipa.contract.backend import Floats

from .low_rank import UNCHANGED, SiteChanges

_UNCHANGED = SiteChanges(UNCHANGED, UNCHANGED)
if TYPE_CHECKING:
    from .influence import Recorder


@dataclass(frozen=True, slots=True)
class KeyValue:
    """Keys and values of one site: (R, heads, T, head width) each, R conditioning rows.

    `mask` (L, 1) is the weight of what they give to each of L queries; None is 1.
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor | None = None

    def repeated(self, count: int) -> KeyValue:
        """Each row `count` times, for as many pictures."""
        if count == 1:
            return self
        return KeyValue(
            self.keys.repeat_interleave(count, dim=0),
            self.values.repeat_interleave(count, dim=0),
            self.mask,
        )


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Text states (R, 77, D), and each image prompt's keys and values by site.

    The text's own keys and values are left to diffusers' modules. R is 2 if guided (unconditional
    first), else 1. `added` is what diffusers calls added_cond_kwargs, for SDXL: pooled text (R, P)
    and six numbers (R, 6). `changes` are those of FaceID's LoRA, by site; () without. `pictures`
    says how many each image prompt has.
    """

    text: torch.Tensor
    images: tuple[tuple[KeyValue, ...], ...]
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)
    changes: tuple[SiteChanges, ...] = ()
    pictures: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """R."""
        return int(self.text.shape[0])

    def repeated(self, count: int) -> Conditioning:
        """Each row `count` times, for as many pictures: all unconditional rows come first."""
        if count == 1:
            return self
        images = tuple(tuple(pair.repeated(count) for pair in pairs) for pairs in self.images)
        added = {name: row.repeat_interleave(count, dim=0) for name, row in self.added.items()}
        text = self.text.repeat_interleave(count, dim=0)
        return Conditioning(text, images, added, self.changes, self.pictures)


@dataclass(frozen=True, slots=True)
class Context:
    """Image prompts with the weights of one step; `scales[j][i]` is λ of prompt j at site i.

    `recorder` is there if influence is measured.
    """

    images: tuple[tuple[KeyValue, ...], ...]
    scales: Sequence[Sequence[float]]
    changes: tuple[SiteChanges, ...] = ()
    recorder: Recorder | None = None

    def changes_at(self, site: int) -> SiteChanges:
        """What a LoRA changes of the attentions of a site's block."""
        return self.changes[site] if self.changes else _UNCHANGED

    def images_at(self, site: int) -> Iterator[tuple[float | torch.Tensor, KeyValue]]:
        """λ · m, keys and values of every image prompt that is on at a site.

        One with λ = 0 is left out, so that it cannot change a bit of the base model's output.
        """
        for scale, pairs in zip(self.scales, self.images, strict=True):
            if scale[site] != 0.0:
                image = pairs[site]
                yield scale[site] if image.mask is None else scale[site] * image.mask, image


NOTHING = Context((), ())
"""No image prompt, no change: what stands for the base model."""


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
