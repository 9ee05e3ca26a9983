"""What the UNet attends to: keys and values, computed once per generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class KeyValue:
    """Keys and values of one site: (R, heads, T, head width) each, R conditioning rows."""

    keys: mx.array
    values: mx.array


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Keys and values by site, in the order of site numbers: of the text, and of each image prompt.

    `rows` is 2 if guided (unconditional first), else 1. `added` is what SDXL adds to the timestep,
    (R, time width).
    """

    rows: int
    text: tuple[KeyValue, ...]
    images: tuple[tuple[KeyValue, ...], ...]
    added: mx.array | None = None

    def arrays(self) -> Iterator[mx.array]:
        """All arrays, to be evaluated together."""
        for per_site in (self.text, *self.images):
            for pair in per_site:
                yield from (pair.keys, pair.values)
        if self.added is not None:
            yield self.added


@dataclass(frozen=True, slots=True)
class Context:
    """A conditioning with the weights of one step: what an evaluation of the UNet is given.

    `scales[j][i]` is λ of image prompt j at site i.
    """

    conditioning: Conditioning
    scales: Sequence[Sequence[float]]

    def text_at(self, site: int) -> KeyValue:
        """The text's keys and values at a site (its rank, not its number)."""
        return self.conditioning.text[site]

    def images_at(self, site: int) -> Iterator[tuple[float, KeyValue]]:
        """λ, keys and values of every image prompt that is on at a site.

        One with λ = 0 is left out, so that it cannot change a bit of the base model's output.
        """
        for scale, pairs in zip(self.scales, self.conditioning.images, strict=True):
            if scale[site] != 0.0:
                yield scale[site], pairs[site]
