"""Shares of image prompts in cross-attention, as `ipa.request.influence` defines them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from ipa.arrays import Floats

from .networks.context import Context, KeyValue


class Recorder:
    """The shares of one evaluation of the UNet, site by site."""

    def __init__(self, pictures: Sequence[int], count: int) -> None:
        self._pictures, self._count = pictures, count
        self._shares: dict[int, torch.Tensor] = {}

    def take(self, site: int, q: torch.Tensor, text: torch.Tensor, context: Context) -> None:
        """Measure the shares at one site.

        Args:
            site: Its rank.
            q: Queries (R · N, heads, L, d), of which the last N are the conditional ones.
            text: What they get of the text, of the same shape.
            context: The image prompts.
        """
        conditional = slice(len(q) - self._count, None)
        norms = [_norm(text[conditional])]
        branches = context.images_at(site)
        for scale, pictures in zip(context.scales, self._pictures, strict=True):
            if scale[site] == 0.0:
                norms += [torch.zeros_like(norms[0])] * pictures
                continue
            _, weight, image = next(branches)
            image = KeyValue(image.keys[conditional], image.values[conditional])
            norms += [
                _norm(weight * attend(q[conditional], image.keys, values))
                for values in values_by_picture(image.values, pictures)
            ]
        stacked = torch.stack(norms)
        total = stacked.sum(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
        self._shares[site] = stacked / total

    def read(self) -> dict[int, Floats]:
        """The shares (1 + P, N, L) of each site; see `Backend.predict`."""
        return {site: shares.cpu().numpy() for site, shares in self._shares.items()}


def values_by_picture(values: torch.Tensor, pictures: int) -> Iterator[torch.Tensor]:
    """Values (N, heads, T, d) for each picture: those of its own tokens, 0 for others'."""
    if pictures == 1:
        yield values
        return
    owner = torch.arange(values.shape[2], device=values.device) * pictures // values.shape[2]
    for picture in range(pictures):
        yield values.where((owner == picture)[:, None], 0.0)


def _norm(part: torch.Tensor) -> torch.Tensor:
    """The L2 norm over heads and width, (N, heads, L, d) to (N, L), in float32."""
    return part.float().square().sum(dim=(1, 3)).sqrt()
