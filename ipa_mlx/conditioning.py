"""The conditioning of the UNet: keys and values, computed once per generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import mlx.core as mx

from ipa.arrays import Floats
from ipa.backend.protocol import Branch
from ipa.request.scales import EMBEDS_SCALINGS

from .networks.context import Context, KeyValue, Recorder
from .networks.low_rank import UNCHANGED, SiteChanges

if TYPE_CHECKING:
    from .controls import ConditionedAdapter, ConditionedControl
    from .networks.attention import CrossAttention


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Keys and values by site, in the order of site numbers: text's, and each image prompt's.

    `rows` is 2 if guided (unconditional first), else 1. `added` is what SDXL adds to the timestep,
    (R, time width). `changes` are those of FaceID's LoRA, by site; () without. `pictures` says how
    many each image prompt has. `controls` are evaluated already. `guidance` is what the guidance
    scale adds to the timestep's sinusoid, (1, its width), where the UNet takes it.
    """

    rows: int
    text: tuple[KeyValue, ...]
    images: tuple[tuple[KeyValue, ...], ...]
    added: mx.array | None = None
    changes: tuple[SiteChanges, ...] = ()
    pictures: tuple[int, ...] = ()
    controls: tuple[ConditionedControl | ConditionedAdapter, ...] = ()
    channels: mx.array | None = None
    guidance: mx.array | None = None

    def context(
        self, scales: Sequence[Sequence[float]], recorder: Recorder | None = None
    ) -> Context:
        """The context of the UNet's layers; `scales[j][i]` is λ of image prompt j at site i."""
        return Context(
            self.rows,
            self.text,
            self.images,
            scales,
            self.changes,
            self.added,
            self.guidance,
            recorder,
        )

    def conditional(self) -> Conditioning:
        """The conditional row alone."""
        if self.rows == 1:
            return self
        return replace(
            self,
            rows=1,
            text=tuple(pair.conditional() for pair in self.text),
            images=tuple(tuple(pair.conditional() for pair in pairs) for pairs in self.images),
            added=None if self.added is None else self.added[-1:],
            controls=tuple(control.conditional() for control in self.controls),
        )

    def arrays(self) -> Iterator[mx.array]:
        """All arrays, to be evaluated together."""
        for per_site in (self.text, *self.images):
            for pair in per_site:
                yield from pair.arrays()
        if self.added is not None:
            yield self.added
        if self.channels is not None:
            yield self.channels
        if self.guidance is not None:
            yield self.guidance
        for site in self.changes:
            for change in (*site.attn1.values(), *site.attn2.values()):
                yield from (change.down, change.up)


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


def text_pairs(
    attentions: Sequence[CrossAttention], states: mx.array, changes: Sequence[SiteChanges]
) -> tuple[KeyValue, ...]:
    """The text's keys and values at every site, with what a LoRA changes of them."""
    layers = [site.attn2 for site in changes] or [UNCHANGED] * len(attentions)
    return tuple(
        a.keys_values(states, change) for a, change in zip(attentions, layers, strict=True)
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


def _moved(rows: mx.array) -> mx.array:
    return mx.concatenate([rows[-1:], mx.zeros_like(rows[-1:])])[-rows.shape[0] :]
