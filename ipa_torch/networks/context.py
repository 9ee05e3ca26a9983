"""The context of the attentions of the reference: keys and values, and one step's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ipa.request.scales import EMBEDS_SCALINGS, V_ONLY, EmbedsScaling

from .low_rank import UNCHANGED, SiteChanges

_UNCHANGED = SiteChanges(UNCHANGED, UNCHANGED)


class Recorder(Protocol):
    """The protocol of what measures the shares of image prompts while a network is evaluated."""

    def take(self, site: int, q: torch.Tensor, text: torch.Tensor, context: Context) -> None:
        """See `ipa_torch.influence.Recorder.take`."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """Keys and values of one site, (R, heads, T, head width) each, of R conditioning rows.

    `mask` (L, 1) is the weight of what they give to each of L queries; None is 1. `scaling` says
    what λ multiplies.
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor | None = None
    scaling: EmbedsScaling = EMBEDS_SCALINGS[V_ONLY]

    def weighted(self, scale: float) -> tuple[float, KeyValue]:
        """λ on the output, and keys and values; or 1, and λ inside them, in their precision."""
        if not self.scaling.is_inside:
            return scale, self
        _, heads, _, width = self.keys.shape
        weight = self.scaling.weight(scale, heads * width)
        values = self.values
        if self.scaling.is_of_mean:
            mean = values.mean(dim=2, keepdim=True)
            values = (values - mean) + weight * mean
        else:
            values = weight * values
        return 1.0, replace(self, keys=weight * self.keys, values=values)

    def conditional(self) -> KeyValue:
        """The conditional row alone, the last one."""
        return replace(self, keys=self.keys[-1:], values=self.values[-1:])

    def repeated(self, count: int) -> KeyValue:
        """Each row `count` times, for as many pictures."""
        if count == 1:
            return self
        return replace(
            self,
            keys=self.keys.repeat_interleave(count, dim=0),
            values=self.values.repeat_interleave(count, dim=0),
        )


@dataclass(frozen=True, slots=True)
class Context:
    """Image prompts with the weights of one step; `scales[j][i]` is λ of prompt j at site i.

    `recorder` is there if influence is measured,
    `watch` if stages are watched.
    """

    images: tuple[tuple[KeyValue, ...], ...]
    scales: Sequence[Sequence[float]]
    changes: tuple[SiteChanges, ...] = ()
    recorder: Recorder | None = None
    watch: Callable[[str, torch.Tensor], torch.Tensor] | None = None

    def observe(self, part: str, array: torch.Tensor) -> torch.Tensor:
        """Show a part of a site's result to the tap; returns it or its replacement."""
        return array if self.watch is None else self.watch(part, array)

    def changes_at(self, site: int) -> SiteChanges:
        """The LoRA changes of the attentions of a site's block."""
        return self.changes[site] if self.changes else _UNCHANGED

    def images_at(self, site: int) -> Iterator[tuple[int, float | torch.Tensor, KeyValue]]:
        """Number, λ · m, keys and values of every image prompt that is on at a site.

        Where `KeyValue.scaling` puts λ inside keys and values, 1 · m is left.

        One with λ = 0 is left out, so that it cannot change a bit of the base model's output.
        """
        pairs_by_prompt = zip(self.scales, self.images, strict=True)
        for number, (scale, pairs) in enumerate(pairs_by_prompt):
            if scale[site] != 0.0:
                weight, image = pairs[site].weighted(scale[site])
                yield number, weight if image.mask is None else weight * image.mask, image


NOTHING = Context((), ())
"""A context without image prompts or changes: the base model's."""
