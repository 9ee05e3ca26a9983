"""Shares of image prompts in cross-attention, as `ipa.request.influence` defines them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from ipa.arrays import Floats

from .networks.attention import attend
from .networks.context import Context

_TINY = 1.2e-38  # below float32's normal numbers: keeps 0 / 0 at 0


class Recorder:
    """The shares of one evaluation of the UNet, site by site; lazy until they are read."""

    def __init__(self, pictures: Sequence[int]) -> None:
        self._pictures = pictures
        self._shares: dict[int, mx.array] = {}

    def take(self, site: int, q: mx.array, text: mx.array, context: Context) -> None:
        """Measure the shares at one site.

        Args:
            site: Its rank.
            q: Queries (R, heads, N · L, d), the last row the conditional one.
            text: What they get of the text, (R, N · L, heads, d).
            context: The image prompts.
        """
        q, norms = q[-1:], [_norm(text[-1:])]
        branches = context.images_at(site, q.shape[2])
        for scale, pictures in zip(context.scales, self._pictures, strict=True):
            if scale[site] == 0.0:
                norms += [mx.zeros_like(norms[0])] * pictures
                continue
            _, weight, image = next(branches)
            keys, head = image.keys[-1:], q.shape[-1]
            norms += [
                _norm(weight * attend(q, keys, values, head=head).transpose(0, 2, 1, 3))
                for values in values_by_picture(image.values[-1:], pictures)
            ]
        stacked = mx.stack(norms)
        self._shares[site] = stacked / mx.maximum(stacked.sum(axis=0), _TINY)

    def read(self, output: mx.array, count: int) -> dict[int, Floats]:
        """The shares (1 + P, N, L) of each site; evaluates them together with the UNet's output."""
        mx.eval(output, *self._shares.values())
        return {
            site: np.array(array).reshape(len(array), count, -1)
            for site, array in self._shares.items()
        }


def values_by_picture(values: mx.array, pictures: int) -> Iterator[mx.array]:
    """Values (1, heads, T, d) for each picture: those of its own tokens, 0 for others'."""
    if pictures == 1:
        yield values
        return
    owner = mx.arange(values.shape[2]) * pictures // values.shape[2]
    for picture in range(pictures):
        yield mx.where((owner == picture)[:, None], values, mx.zeros((), values.dtype))


def _norm(part: mx.array) -> mx.array:
    """The L2 norm over heads and width, (1, L, heads, d) to (L,), in float32."""
    return mx.sqrt(part.astype(mx.float32).square().sum(axis=(0, 2, 3)))
