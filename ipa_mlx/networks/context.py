"""What the layers of the networks are given: keys and values, and the weights of one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import mlx.core as mx

from ipa.request.scales import EMBEDS_SCALINGS, V_ONLY, EmbedsScaling

from .low_rank import UNCHANGED, SiteChanges

_UNCHANGED = SiteChanges(UNCHANGED, UNCHANGED)

Weight: TypeAlias = float | mx.array
"""A number, or an array () in the precision of what it multiplies."""


class Recorder(Protocol):
    """The protocol of what measures the shares of image prompts while a network is evaluated."""

    def take(self, site: int, q: mx.array, text: mx.array, context: Context) -> None:
        """See `ipa_mlx.influence.Recorder.take`."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """Keys and values of one site, (R, heads, T, head width) each, of R conditioning rows.

    `mask` (L, 1) is the weight of what they give to each of L queries; None is 1. `scaling` says
    what λ multiplies. `width` is a head's where zeros that a kernel needs follow it; None is all.
    """

    keys: mx.array
    values: mx.array
    mask: mx.array | None = None
    scaling: EmbedsScaling = EMBEDS_SCALINGS[V_ONLY]
    width: int | None = None

    def arrays(self) -> Iterator[mx.array]:
        """All arrays, to be evaluated."""
        yield from (self.keys, self.values)
        if self.mask is not None:
            yield self.mask

    def conditional(self) -> KeyValue:
        """The conditional row alone, the last one."""
        return replace(self, keys=self.keys[-1:], values=self.values[-1:])

    def factor(self, scale: float) -> float:
        """What `weighted` multiplies by, of λ."""
        width = self.keys.shape[-1] if self.width is None else self.width
        is_inside = self.scaling.is_inside
        return self.scaling.weight(scale, self.keys.shape[1] * width) if is_inside else scale

    def weighted(self, weight: Weight) -> tuple[Weight, KeyValue]:
        """λ on the output, and keys and values; or 1, and λ inside them, in their precision."""
        if not self.scaling.is_inside:
            return weight, self
        values = self.values
        if self.scaling.is_of_mean:
            mean = values.mean(axis=2, keepdims=True)
            values = (values - mean) + weight * mean
        else:
            values = weight * values
        return 1.0, replace(self, keys=weight * self.keys, values=values)


@dataclass(frozen=True, slots=True)
class Context:
    """The conditioning of a network's layers in one evaluation.

    Keys and values by site, of the text and of each image prompt; `scales[j][i]` is λ of image
    prompt j at site i; or in its place the array of `KeyValue.factor`, which is never off. See
    `Conditioning` for the rest. `recorder` is there if influence is measured, `watch` if stages are
    watched.
    """

    rows: int
    text: tuple[KeyValue, ...]
    images: tuple[tuple[KeyValue, ...], ...]
    scales: Sequence[Sequence[Weight]]
    changes: tuple[SiteChanges, ...] = ()
    added: mx.array | None = None
    guidance: mx.array | None = None
    recorder: Recorder | None = None
    watch: Callable[[str, mx.array], mx.array] | None = None

    def observe(self, part: str, array: mx.array) -> mx.array:
        """Show a part of a site's result, (R, L, heads, d), to the tap; it or its replacement."""
        return array if self.watch is None else self.watch(part, array)

    def text_at(self, site: int) -> KeyValue:
        """The text's keys and values at a site (its rank, not its number)."""
        return self.text[site]

    def changes_at(self, site: int) -> SiteChanges:
        """The LoRA changes of the attentions of a site's block."""
        return self.changes[site] if self.changes else _UNCHANGED

    def images_at(self, site: int, queries: int) -> Iterator[tuple[int, Weight, KeyValue]]:
        """Number, λ · m, keys and values of every image prompt that is on at a site.

        Where `KeyValue.scaling` puts λ inside keys and values, 1 · m is left.

        The mask is repeated for as many pictures as their queries stand side by side: (L, 1, 1).

        One with λ = 0 is left out, so that it cannot change a bit of the base model's output.
        """
        pairs_by_prompt = zip(self.scales, self.images, strict=True)
        for number, (scale, pairs) in enumerate(pairs_by_prompt):
            factor = scale[site]
            if not isinstance(factor, mx.array):
                if factor == 0.0:
                    continue
                factor = pairs[site].factor(factor)
            weight, image = pairs[site].weighted(factor)
            yield number, _weight(weight, image.mask, queries), image


def _weight(scale: Weight, mask: mx.array | None, queries: int) -> Weight:
    if mask is None:
        return scale
    return scale * mx.tile(mask[:, None], (queries // mask.shape[0], 1, 1))
