"""Enhancement: a picture's parts are encoded too, and pooled onto the grid of one picture.

Source: ComfyUI_IPAdapter_plus (utils.py, encode_image_masked with tiles; enhance_tiles and
enhance_ratio). There the parts are cut from the picture as it is and each is cropped to its own
middle square; here they are cut from the square that the fit keeps, and a mask on the picture is
cut as it is, where ComfyUI lays the whole mask on every part. For square pictures without a mask
both are the same. Computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.arrays import Floats
from ipa.backend.protocol import Backend, LoadedAdapter
from ipa.errors import RequestError
from ipa.model.preprocessor import ClipPreprocessor
from ipa.prepare.images.clip import clip_pixels, encoder_views
from ipa.prepare.images.fit import squared
from ipa.prepare.images.pictures import check_pixels, to_rgb
from ipa.request.embeds import ImageEmbeds
from ipa.request.image_prompt import ImagePrompt
from ipa.request.picture_options import CENTER_CROP, Fit
from ipa.watching import watch

from .encoder_masks import masked_pixels, masked_view, picture_masks, seen_mask

_BATCH = 16  # parts that are encoded at once


@dataclass(frozen=True, slots=True)
class Enhancement:
    """How a picture is enhanced: `tiles` along a side, and the share of the whole."""

    tiles: int
    ratio: float

    def crops(self, image: Image.Image, fit: Fit) -> list[Image.Image]:
        """The parts of a picture, or of a mask on one (mode F), in reading order.

        A part's sides are whole pixels; what is left over at the right and at the bottom is lost.

        Raises:
            RequestError: The picture has fewer pixels than parts.
        """
        if fit == "pad":
            check_pixels(*(max(image.size),) * 2, "a picture padded to a square")
        whole = squared(image, fit)
        width, height = (side // self.tiles for side in whole.size)
        if not width or not height:
            raise RequestError(
                f"a picture is too small for enhance_tiles={self.tiles}",
                found=f"{whole.width} × {whole.height} pixels of it are looked at",
                remedy="fewer tiles, or a larger picture",
            )
        corners = [(x, y) for y in range(self.tiles) for x in range(self.tiles)]
        return [
            whole.crop((x * width, y * height, (x + 1) * width, (y + 1) * height))
            for x, y in corners
        ]

    def apply(self, whole: Floats, parts: Floats) -> Floats:
        """The hidden states of pictures, from those of the whole and of their parts.

        Args:
            whole: (N, 1 + g², C): a class token, and a grid of g × g patches.
            parts: (N · tiles², 1 + g², C), those of a picture together and in reading order.

        Returns:
            For one picture two, (2, 1 + g², C): the whole times the ratio, and its parts pooled.
            For several (N, 1 + g², C): the whole times the ratio, and the pooled times the rest.
        """
        pooled = np.stack([self.pooled(p) for p in parts.reshape(len(whole), -1, *parts.shape[1:])])
        scaled = whole.astype(np.float64) * self.ratio
        if len(whole) == 1:
            return np.concatenate([scaled, pooled]).astype(np.float32)
        return (scaled + pooled * (1.0 - self.ratio)).astype(np.float32)

    def pooled(self, parts: Floats) -> npt.NDArray[np.float64]:
        """Pool one picture's parts, (tiles², 1 + g², C), to one (1 + g², C).

        The mean of the class tokens; and of the patches, laid side by side in a grid of tiles · g,
        the mean of every tiles × tiles neighbours.
        """
        n, states = self.tiles, parts.astype(np.float64)
        side = round((states.shape[1] - 1) ** 0.5)
        grid = states[:, 1:].reshape(n, n, side, side, -1).transpose(0, 2, 1, 3, 4)
        patches = grid.reshape(side, n, side, n, -1).mean(axis=(1, 3))
        return np.concatenate([states[:, 0].mean(axis=0)[None], patches.reshape(side * side, -1)])


@dataclass(frozen=True, slots=True)
class PlannedEnhancement:
    """A prompt's parts, prepared for the encoder: pixels (N · tiles², …)."""

    how: Enhancement
    parts: Floats

    def of(self, whole: ImageEmbeds, backend: Backend, adapter: str) -> ImageEmbeds:
        """Enhance the features of the pictures; the unconditional ones stay."""
        batches = np.split(self.parts, range(_BATCH, len(self.parts), _BATCH))
        watch().expect("encode", len(self.parts), "pictures")
        states = []
        for batch in batches:
            states.append(backend.encode_images(adapter, batch)[0])
            watch().advance("encode", len(batch), "pictures")
        closer = self.how.apply(whole.conditional, np.concatenate(states))
        return replace(whole, conditional=closer, unconditional=whole.unconditional[:1])


def plan_enhancement(
    prompt: ImagePrompt, adapter: str, loaded: LoadedAdapter, resize: str
) -> PlannedEnhancement | None:
    """Prepare the parts of a prompt's pictures; None without enhancement.

    `resize` is that of `images.clip_pixels`.

    Raises:
        RequestError: The adapter takes no states, or a picture is too small.
    """
    if prompt.enhance_tiles == 1:
        return None
    if loaded.spec.feature != "states":
        raise RequestError(
            f"enhance_tiles does not fit adapter {adapter!r}",
            found=f"an adapter that takes the pooled {loaded.spec.feature}, which has no places",
            remedy="it takes the states of a grid of patches: plus, plus-face, full-face",
        )
    how = Enhancement(prompt.enhance_tiles, prompt.enhance_ratio)
    return PlannedEnhancement(how, _parts(prompt, loaded.preprocessing, resize))


def part_views(
    prompt: ImagePrompt, preprocessing: Mapping[str, Any], resize: str
) -> Iterator[list[Image.Image]]:
    """The encoder's views of the parts of each picture; empty without enhancement."""
    recipe = ClipPreprocessor.from_config(preprocessing)
    for crops, shown, fit in _crops(prompt, recipe):
        seen = encoder_views(crops, preprocessing, fit, prompt.sharpen, resize)
        yield [masked_view(view, mask, recipe) for view, mask in zip(seen, shown, strict=True)]


def _parts(prompt: ImagePrompt, preprocessing: Mapping[str, Any], resize: str) -> Floats:
    recipe = ClipPreprocessor.from_config(preprocessing)
    return np.concatenate(
        [
            masked_pixels(clip_pixels(crops, preprocessing, fit, prompt.sharpen, resize), shown)
            for crops, shown, fit in _crops(prompt, recipe)
        ]
    )


def _crops(
    prompt: ImagePrompt, recipe: ClipPreprocessor
) -> Iterator[tuple[list[Image.Image], list[Floats | None], Fit]]:
    """The parts of each picture, their masks as the encoder's square, and its enhancement."""
    fit = prompt.fit or CENTER_CROP
    part_fit = fit if fit == "squash" else CENTER_CROP  # a part is a square, unless all is squashed
    how = Enhancement(prompt.enhance_tiles, prompt.enhance_ratio)
    for picture, mask in zip(prompt.images, picture_masks(prompt), strict=True):
        crops = how.crops(to_rgb(picture), fit) if how.tiles > 1 else []
        shown: list[Floats | None] = [None] * len(crops)
        if mask is not None and crops:
            shown = [seen_mask(part, recipe, part_fit) for part in how.crops(mask, fit)]
        yield crops, shown, part_fit
