"""The influence of image prompts on a picture: shares of cross-attention.

Our own measure, of the terms of arXiv 2308.06721, eq. 5. At a query of a cross-attention, the text
adds P_text = Attn(Q, K, V), and picture p of image prompt j adds

    P_jp = λ_j m_j softmax(Q K_jᵀ / √d) V_jp

where the softmax is over the tokens of all pictures of the prompt and V_jp is V_j with 0 for those
of every other picture. This is linear in V, so the P_jp of a prompt add up to its branch. The share
of a picture is ‖P_jp‖ / (‖P_text‖ + Σ ‖P_kr‖), norms being L2 over all heads and channels of the
query, of what the conditional half computes. With the text's all shares sum to 1.

A step that reuses the deep part of the network (`ipa.prepare.reuse`) has at the cross-attentions
that it does not compute the shares of the last full step: the terms whose result it uses. One that
is forecast (`ipa.prepare.forecast`) has those of the last step that is computed.

A share says how large a term is, not what it does. It does not say: which way the term points (two
may cancel, and a negative λ counts like a positive one), what the residual stream and later layers
make of it, or what a picture did to queries that it never reached, through self-attention.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ipa.arrays import Floats
from ipa.errors import RequestError, shown
from ipa.model.sites import SECTIONS, Section, Site

from .editing import Crop

Halves: TypeAlias = npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Influence:
    """The shares of every picture of every image prompt, by step, cross-attention and query.

    Kept in float16 (off by 2.5e-4 of a share at most): for SDXL at 1024², 102,400 queries in 70
    cross-attentions, 30 steps are 6.1 MB for each picture of an image prompt and each picture made;
    for Stable Diffusion 1.5 at 512², 1.6 MB. The norms are computed in float32. While it is
    measured, a step attends once more to each picture.

    Attributes:
        pictures: How many pictures each image prompt has, in the order of the request; those that
            `combine` made one are one.
        sites: The cross-attentions, in the order of their numbers.
        size: Rows and columns of the latents.
        shares: For each site (steps, pictures made, P, rows, columns): its grid of queries, and the
            pictures of all image prompts side by side, P in all.
        crops: For each picture that was made, the part of the picture to start from that it lies
            over, where padding_mask_crop worked on a part; else empty. All maps lie over that part.
    """

    pictures: tuple[int, ...]
    sites: tuple[Site, ...]
    size: tuple[int, int]
    shares: tuple[Halves, ...] = field(repr=False)
    crops: tuple[Crop | None, ...] = ()

    @staticmethod
    def join(several: Sequence[Influence]) -> Influence:
        """Join the influences of one call's prompts, whose pictures were made side by side.

        Where image prompts have more pictures (or tiles) in one than in another, the others' share
        of those is 0.
        """
        first = several[0]
        pictures = tuple(max(counts) for counts in zip(*(s.pictures for s in several), strict=True))
        shares = tuple(
            np.concatenate([entry._padded(site, pictures) for entry in several], axis=1)
            for site in range(len(first.sites))
        )
        crops = tuple(entry.crop(image) for entry in several for image in range(entry.images))
        return replace(first, pictures=pictures, shares=shares, crops=crops if any(crops) else ())

    def _padded(self, site: int, pictures: tuple[int, ...]) -> Halves:
        """Shares at a site, with zeros for the pictures that others have more."""
        shares, parts, start = self.shares[site], [], 0
        for count, wanted in zip(self.pictures, pictures, strict=True):
            parts.append(shares[:, :, start : start + count])
            shape = (*shares.shape[:2], wanted - count, *shares.shape[3:])
            parts.append(np.zeros(shape, dtype=np.float16))
            start += count
        return np.concatenate(parts, axis=2)

    @property
    def steps(self) -> int:
        """The number of denoising steps that were measured."""
        return int(self.shares[0].shape[0])

    @property
    def images(self) -> int:
        """The number of pictures that were made."""
        return int(self.shares[0].shape[1])

    def crop(self, image: int = 0) -> Crop | None:
        """The crop that the maps lie over; None for the whole picture."""
        _index("image", image, self.images)
        return self.crops[image] if self.crops else None

    def map(
        self,
        prompt: int,
        picture: int | None = None,
        *,
        image: int = 0,
        steps: Collection[int] | None = None,
        sites: Collection[int] | Section | None = None,
    ) -> Floats:
        """A map of an image prompt's share: (h, w) in [0, 1], at the size of the latents.

        It lies over `crop(image)`: `ipa.sheets.mask_overlay.overlay` puts it back there.

        Args:
            prompt: Its index in the request.
            picture: One of its pictures, by index; None is the sum of all of them.
            image: Which of the pictures that were made.
            steps: Steps, counted from 0, to average over; None is all of them.
            sites: Cross-attentions to average over, each counting the same: their numbers, or
                "down", "mid" or "up"; None is all of them. A coarse grid's value stands at all the
                latents that its query covers.

        Raises:
            RequestError: There is no such prompt, picture, step or cross-attention.
        """
        first = sum(self.pictures[: _index("prompt", prompt, len(self.pictures))])
        count = self.pictures[prompt]
        if picture is not None:
            first, count = first + _index("picture", picture, count), 1
        return self._average(slice(first, first + count), image, steps, sites)

    def text(
        self,
        *,
        image: int = 0,
        steps: Collection[int] | None = None,
        sites: Collection[int] | Section | None = None,
    ) -> Floats:
        """A map of the text's share: what all image prompts leave of 1."""
        return np.asarray(1.0 - self._average(slice(None), image, steps, sites), np.float32)

    def mean(self, prompt: int, picture: int | None = None, **choice: Any) -> float:
        """The mean of `map` over the whole picture; arguments are the same."""
        return float(self.map(prompt, picture, **choice).mean(dtype=np.float64))

    def describe(self) -> list[dict[str, Any]]:
        """The mean shares, JSON-able, for each picture that was made."""
        return [
            {
                "text": round(float(self.text(image=image).mean(dtype=np.float64)), 5),
                "image_prompts": [
                    {
                        "share": round(self.mean(prompt, image=image), 5),
                        "pictures": [
                            round(self.mean(prompt, picture, image=image), 5)
                            for picture in range(count)
                        ],
                    }
                    for prompt, count in enumerate(self.pictures)
                ],
                **({} if (crop := self.crop(image)) is None else {"crop_box": list(crop.box)}),
            }
            for image in range(self.images)
        ]

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """All shares by name, as for `numpy.savez`.

        "site_1", "site_3", …: `shares`, by number of the site; "prompt" and "picture": for each of
        the P, the index of its image prompt and its own in that; "paths": the sites' in diffusers;
        of crops "crop_box": left, top, right, bottom for each picture that was made, and
        "crop_size": width and height of what that is a part of.
        """
        cropped = [crop for crop in self.crops if crop is not None]
        return {
            "prompt": np.repeat(np.arange(len(self.pictures)), self.pictures),
            "picture": np.concatenate([np.arange(0), *map(np.arange, self.pictures)]),
            "paths": np.array([site.path for site in self.sites]),
            **({"crop_box": np.array([crop.box for crop in cropped])} if cropped else {}),
            **({"crop_size": np.array([crop.size for crop in cropped])} if cropped else {}),
            **{
                f"site_{site.number}": shares
                for site, shares in zip(self.sites, self.shares, strict=True)
            },
        }

    def _average(
        self,
        pictures: slice,
        image: int,
        steps: Collection[int] | None,
        sites: Collection[int] | Section | None,
    ) -> Floats:
        _index("image", image, self.images)
        when: Any = slice(None)
        if steps is not None:
            when = [_index("step", step, self.steps) for step in _some("steps", steps)]
        total, ranks = np.zeros(self.size), self._ranks(sites)
        for rank in ranks:
            chosen = self.shares[rank][when, image, pictures].astype(np.float64)
            total += _enlarged(chosen.sum(axis=1).mean(axis=0), self.size)
        return (total / len(ranks)).astype(np.float32)

    def _ranks(self, sites: Collection[int] | str | None) -> Sequence[int]:
        if sites is None:
            return range(len(self.sites))
        if isinstance(sites, str):
            chosen = [rank for rank, site in enumerate(self.sites) if site.section == sites]
            return _some(f"sites of {SECTIONS}", chosen)
        ranks = {site.number: rank for rank, site in enumerate(self.sites)}
        for number in _some("sites", sites):
            if number not in ranks:
                raise RequestError(
                    "no cross-attention has this number",
                    found=shown(number),
                    remedy=f"known: {', '.join(map(str, ranks))}",
                )
        return [ranks[number] for number in sites]


def _index(what: str, value: int, count: int) -> int:
    good = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not good or not 0 <= value < count:
        raise RequestError(
            f"there is no such {what} in this influence",
            found=shown(value),
            remedy=f"0 to {count - 1}" if count else "none was measured",
        )
    return int(value)


def _some(what: str, values: Collection[int]) -> Sequence[int]:
    if not len(values):
        raise RequestError(f"{what} to average over are needed", found="none of them")
    return list(values)


def _enlarged(grid: npt.NDArray[np.float64], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Enlarge a grid of queries to the latents' size; each level of a UNet halves, rounding up."""
    rows, columns = (
        np.arange(side) >> math.ceil(math.log2(side / count))
        for side, count in zip(size, grid.shape, strict=True)
    )
    return np.asarray(grid[rows[:, None], columns])
