"""What the UNet attends to: keys and values, computed once per generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx

from ipa.contract.backend import Branch, Floats
from ipa.contract.embeds_scaling import EMBEDS_SCALINGS, V_ONLY, EmbedsScaling

from .low_rank import UNCHANGED, SiteChanges

_UNCHANGED = SiteChanges(UNCHANGED, UNCHANGED)
if TYPE_CHECKING:
    from .attention import CrossAttention
    from .controls import ConditionedAdapter, ConditionedControl


class Recorder(Protocol):
    """Who measures the shares of image prompts while a network is evaluated."""

    def take(self, site: int, q: mx.array, text: mx.array, context: Context) -> None:
        """See `ipa_mlx.influence.Recorder.take`."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """Keys and values of one site: (R, heads, T, head width) each, R conditioning rows.

    `mask` (L, 1) is the weight of what they give to each of L queries; None is 1. `scaling` says
    what λ multiplies.
    """

    keys: mx.array
    values: mx.array
    mask: mx.array | None = None
    scaling: EmbedsScaling = EMBEDS_SCALINGS[V_ONLY]

    def arrays(self) -> Iterator[mx.array]:
        """All arrays, to be evaluated."""
        yield from (self.keys, self.values)
        if self.mask is not None:
            yield self.mask

    def weighted(self, scale: float) -> tuple[float, KeyValue]:
        """λ on the output, and keys and values; or 1, and λ inside them, in their precision."""
        if not self.scaling.is_inside:
            return scale, self
        _, heads, _, width = self.keys.shape
        weight = self.scaling.weight(scale, heads * width)
        values = self.values
        if self.scaling.is_of_mean:
            mean = values.mean(axis=2, keepdims=True)
            values = (values - mean) + weight * mean
        else:
            values = weight * values
        return 1.0, replace(self, keys=weight * self.keys, values=values)


@dataclass(frozen=True, slots=True)
class Context:
    """What the layers of a network are given in one evaluation.

    Keys and values by site, of the text and of each image prompt; `scales[j][i]` is λ of image
    prompt j at site i. See `Conditioning` for the rest. `recorder` is there if influence is
    measured, `watch` if stages are watched.
    """

    rows: int
    text: tuple[KeyValue, ...]
    images: tuple[tuple[KeyValue, ...], ...]
    scales: Sequence[Sequence[float]]
    changes: tuple[SiteChanges, ...] = ()
    added: mx.array | None = None
    guidance: mx.array | None = None
    recorder: Recorder | None = None
    watch: Callable[[str, mx.array], mx.array] | None = None

    def told(self, part: str, array: mx.array) -> mx.array:
        """A part of a site's result, or what is to stand in for it (`ipa.contract.taps`)."""
        return array if self.watch is None else self.watch(part, array)

    def text_at(self, site: int) -> KeyValue:
        """The text's keys and values at a site (its rank, not its number)."""
        return self.text[site]

    def changes_at(self, site: int) -> SiteChanges:
        """What a LoRA changes of the attentions of a site's block."""
        return self.changes[site] if self.changes else _UNCHANGED

    def images_at(
        self, site: int, queries: int
    ) -> Iterator[tuple[int, float | mx.array, KeyValue]]:
        """Number, λ · m, keys and values of every image prompt that is on at a site.

        Where `KeyValue.scaling` puts λ inside keys and values, 1 · m is left.

        The mask is repeated for as many pictures as their queries stand side by side.

        One with λ = 0 is left out, so that it cannot change a bit of the base model's output.
        """
        pairs_by_prompt = zip(self.scales, self.images, strict=True)
        for number, (scale, pairs) in enumerate(pairs_by_prompt):
            if scale[site] != 0.0:
                weight, image = pairs[site].weighted(scale[site])
                yield number, _weight(weight, image.mask, queries), image


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Keys and values by site, in the order of site numbers: of the text, and of each image prompt.

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
        """What the UNet's layers are given; `scales[j][i]` is λ of image prompt j at site i."""
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


def text_pairs(
    attentions: Sequence[CrossAttention], states: mx.array, changes: Sequence[SiteChanges]
) -> tuple[KeyValue, ...]:
    """The text's keys and values at every site, with what a LoRA changes of them."""
    own = [site.attn2 for site in changes] or [UNCHANGED] * len(attentions)
    return tuple(a.keys_values(states, change) for a, change in zip(attentions, own, strict=True))


def steered(pairs: tuple[KeyValue, ...], branch: Branch) -> tuple[KeyValue, ...]:
    """An image prompt's keys and values with all that its branch says of them."""
    scaling = EMBEDS_SCALINGS[branch.embeds_scaling]
    moved = branch.moved or (False,) * len(pairs)
    there = (_to_unconditional(p) if m else p for p, m in zip(pairs, moved, strict=True))
    return masked(tuple(replace(pair, scaling=scaling) for pair in there), branch.masks)


def _to_unconditional(pair: KeyValue) -> KeyValue:
    """The conditional row's in the unconditional row, and zeros, which add 0, in its own."""
    return replace(pair, keys=_moved(pair.keys), values=_moved(pair.values))


def _moved(rows: mx.array) -> mx.array:
    return mx.concatenate([rows[-1:], mx.zeros_like(rows[-1:])])[-rows.shape[0] :]
