"""What the UNet attends to: keys and values, computed once per generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import mlx.core as mx

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

    keys: mx.array
    values: mx.array
    mask: mx.array | None = None


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Keys and values by site, in the order of site numbers: of the text, and of each image prompt.

    `rows` is 2 if guided (unconditional first), else 1. `added` is what SDXL adds to the timestep,
    (R, time width). `changes` are those of FaceID's LoRA, by site; () without. `pictures` says how
    many each image prompt has.
    """

    rows: int
    text: tuple[KeyValue, ...]
    images: tuple[tuple[KeyValue, ...], ...]
    added: mx.array | None = None
    changes: tuple[SiteChanges, ...] = ()
    pictures: tuple[int, ...] = ()

    def arrays(self) -> Iterator[mx.array]:
        """All arrays, to be evaluated together."""
        for per_site in (self.text, *self.images):
            for pair in per_site:
                yield from (pair.keys, pair.values, *(() if pair.mask is None else (pair.mask,)))
        if self.added is not None:
            yield self.added
        for site in self.changes:
            for change in (*site.attn1.values(), *site.attn2.values()):
                yield from (change.down, change.up)


@dataclass(frozen=True, slots=True)
class Context:
    """A conditioning with the weights of one step: what an evaluation of the UNet is given.

    `scales[j][i]` is λ of image prompt j at site i. `recorder` is there if influence is measured.
    """

    conditioning: Conditioning
    scales: Sequence[Sequence[float]]
    recorder: Recorder | None = None

    def text_at(self, site: int) -> KeyValue:
        """The text's keys and values at a site (its rank, not its number)."""
        return self.conditioning.text[site]

    def changes_at(self, site: int) -> SiteChanges:
        """What a LoRA changes of the attentions of a site's block."""
        changes = self.conditioning.changes
        return changes[site] if changes else _UNCHANGED

    def images_at(self, site: int, queries: int) -> Iterator[tuple[float | mx.array, KeyValue]]:
        """λ · m, keys and values of every image prompt that is on at a site.

        The mask is repeated for as many pictures as their queries stand side by side.

        One with λ = 0 is left out, so that it cannot change a bit of the base model's output.
        """
        for scale, pairs in zip(self.scales, self.conditioning.images, strict=True):
            if scale[site] != 0.0:
                yield _weight(scale[site], pairs[site].mask, queries), pairs[site]


def _weight(scale: float, mask: mx.array | None, queries: int) -> float | mx.array:
    return scale if mask is None else scale * mx.tile(mask, (queries // mask.shape[0], 1))


def masked(
    pairs: tuple[KeyValue, ...], masks: Sequence[Floats | None] | None
) -> tuple[KeyValue, ...]:
    """Keys and values with the masks of their sites, in the precision of the values."""
    if masks is None:
        return pairs
    return tuple(
        pair
        if mask is None
        else replace(pair, mask=mx.array(mask[:, None]).astype(pair.values.dtype))
        for pair, mask in zip(pairs, masks, strict=True)
    )
