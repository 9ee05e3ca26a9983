"""What the UNet attends to: text states, and image keys and values computed once per generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch

from ipa.contract.backend import Branch, Floats
from ipa.contract.embeds_scaling import EMBEDS_SCALINGS, V_ONLY, EmbedsScaling

from .low_rank import UNCHANGED, SiteChanges

_UNCHANGED = SiteChanges(UNCHANGED, UNCHANGED)
if TYPE_CHECKING:
    from .controls import ConditionedAdapter, ConditionedControl


class Recorder(Protocol):
    """Who measures the shares of image prompts while a network is evaluated."""

    def take(self, site: int, q: torch.Tensor, text: torch.Tensor, context: Context) -> None:
        """See `ipa_torch.influence.Recorder.take`."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """Keys and values of one site: (R, heads, T, head width) each, R conditioning rows.

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
        """R."""
        return int(self.text.shape[0])

    def repeated(self, count: int) -> Conditioning:
        """Each row `count` times, for as many pictures: all unconditional rows come first."""
        if count == 1:
            return self
        images = tuple(tuple(pair.repeated(count) for pair in pairs) for pairs in self.images)
        added = {name: row.repeat_interleave(count, dim=0) for name, row in self.added.items()}
        text = self.text.repeat_interleave(count, dim=0)
        return replace(self, text=text, images=images, added=added)


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

    def told(self, part: str, array: torch.Tensor) -> torch.Tensor:
        """A part of a site's result, or what is to stand in for it (`ipa.contract.taps`)."""
        return array if self.watch is None else self.watch(part, array)

    def changes_at(self, site: int) -> SiteChanges:
        """What a LoRA changes of the attentions of a site's block."""
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


def steered(pairs: tuple[KeyValue, ...], branch: Branch) -> tuple[KeyValue, ...]:
    """An image prompt's keys and values with all that its branch says of them."""
    scaling = EMBEDS_SCALINGS[branch.embeds_scaling]
    moved = branch.moved or (False,) * len(pairs)
    there = (_to_unconditional(p) if m else p for p, m in zip(pairs, moved, strict=True))
    return masked(tuple(replace(pair, scaling=scaling) for pair in there), branch.masks)


def _to_unconditional(pair: KeyValue) -> KeyValue:
    """The conditional row's in the unconditional row, and zeros, which add 0, in its own."""
    return replace(pair, keys=_moved(pair.keys), values=_moved(pair.values))


def _moved(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows[-1:], torch.zeros_like(rows[-1:])])[-len(rows) :]
