"""From an image prompt to the features that its adapter's projector takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from ipa.contract.backend import Backend, Floats, LoadedAdapter
from ipa.contract.combining import CONCAT
from ipa.contract.embeds import EmbedsOrigin, ImageEmbeds, check_feature
from ipa.contract.fit import CENTER_CROP, TILE, Fit
from ipa.contract.image_prompt import ImagePrompt, Negative, Picture, pictures_of
from ipa.contract.masks import Mask
from ipa.prepare.clip_recipe import ClipRecipe
from ipa.prepare.encoder_masks import masked_pixels, masked_view, seen_masks
from ipa.prepare.enhancement import PlannedEnhancement, part_views, plan_enhancement
from ipa.prepare.fit import kept
from ipa.prepare.images import clip_pixels, encoder_views, to_rgb
from ipa.prepare.ipadpt import read_ipadpt
from ipa.prepare.noise_picture import with_noise
from ipa.prepare.text_direction import TextDirection
from ipa.prepare.tiles import tile_prompts

_WORTH_A_WORD = 0.01  # of a picture's area that is lost


class EncodingOptions(TypedDict, total=False):
    """The keywords of `ImagePrompt` that matter before the projector."""

    combine: str
    negative: Negative | None
    fit: Fit | None
    sharpen: float
    encoder_mask: Mask | Sequence[Mask | None] | None
    enhance_tiles: int
    enhance_ratio: float
    neg_content_prompt: str | None
    neg_content_scale: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFeatures:
    """What the features of one image prompt will be made of, checked.

    Attributes:
        source: Prepared pixels (N, 3, S, S), or embeds that were given.
        negative: The same for what replaces the unconditional features; None where nothing does.
        combine: How several pictures become one.
        origin: What the adapter needs.
        warnings: What is lost of the pictures, or of a text.
        closer: What a closer look at the pictures adds.
        direction: A text to take away from them.
    """

    source: Floats | ImageEmbeds
    negative: Floats | ImageEmbeds | None
    combine: str
    origin: EmbedsOrigin
    warnings: tuple[str, ...]
    closer: PlannedEnhancement | None = None
    direction: TextDirection | None = None

    def compute(self, backend: Backend, adapter: str) -> ImageEmbeds:
        """Run the encoder on what are pictures, then combine."""
        embeds = self._encode(self.source, backend, adapter)
        if self.closer is not None:
            embeds = self.closer.of(embeds, backend, adapter)
        if self.direction is not None:
            embeds = self.direction.taken_from(embeds, backend)
        if self.negative is not None:
            embeds = embeds.against(self._encode(self.negative, backend, adapter))
        return embeds if self.combine == CONCAT else embeds.combine(self.combine)

    def _encode(self, source: Floats | ImageEmbeds, backend: Backend, adapter: str) -> ImageEmbeds:
        if isinstance(source, ImageEmbeds):
            return source
        conditional, unconditional = backend.encode_images(adapter, source)
        return ImageEmbeds(conditional=conditional, unconditional=unconditional, origin=self.origin)


def plan_features(
    prompt: ImagePrompt,
    adapter: str,
    loaded: LoadedAdapter,
    direction: TextDirection | None = None,
) -> PlannedFeatures:
    """Prepare the pictures of an image prompt, and check embeds, for a loaded adapter.

    Args:
        prompt: What a person asked for.
        adapter: What the adapter is called.
        loaded: The adapter.
        direction: What `prepare.text_direction` made of the prompt's text.

    Raises:
        RequestError: A picture cannot be used, or embeds are of another encoder or kind.
    """
    negative: Any = with_noise(prompt).negative
    source = _source(prompt.image, prompt, loaded, "the embeds")
    if not isinstance(source, ImageEmbeds):
        recipe = ClipRecipe.from_config(loaded.preprocessing)
        source = masked_pixels(source, seen_masks(prompt, recipe))
    return PlannedFeatures(
        source=source,
        negative=None
        if negative is None
        else _source(negative, prompt, loaded, "the negative embeds"),
        combine=prompt.combine,
        origin=origin_of(loaded),
        warnings=(*_losses(prompt, loaded), *(direction.warnings if direction else ())),
        closer=plan_enhancement(prompt, adapter, loaded),
        direction=direction,
    )


def origin_of(loaded: LoadedAdapter) -> EmbedsOrigin:
    """Where the features that an adapter takes come from."""
    encoder = loaded.encoder
    recipe = ClipRecipe.from_config(loaded.preprocessing)
    return EmbedsOrigin(
        feature=check_feature(loaded.spec.feature),
        encoder=f"a CLIP vision model of {encoder.layers} layers, hidden_size {encoder.width}, "
        f"projection_dim {encoder.projection}, {encoder.image_size} pixels",
        encoder_sha256=loaded.encoder_sha256,
        preprocessing_sha256=hashlib.sha256(repr(astuple(recipe)).encode()).hexdigest(),
    )


def load_embeds(
    path: str | Path, backend: Backend, adapter: str, loaded: LoadedAdapter
) -> ImageEmbeds:
    """Embeds of a file: ours, checked, or an .ipadpt, of which only shapes can be checked.

    A file without unconditional features gets those of no picture.

    Raises:
        CheckpointError: The file is damaged, or its shapes do not fit the adapter.
        RequestError: The embeds are of another encoder or kind.
    """
    origin = origin_of(loaded)
    if Path(path).suffix == ".safetensors":
        embeds = ImageEmbeds.load(path)
        embeds.origin.check(origin, f"the embeds of {path}")
        return embeds
    encoder, states = loaded.encoder, origin.feature == "states"
    shape = (encoder.tokens, encoder.width) if states else (encoder.projection,)
    conditional, unconditional = read_ipadpt(Path(path), shape)
    if unconditional is None:
        side = encoder.image_size
        nothing = np.zeros((1, encoder.channels, side, side), np.float32)
        unconditional = backend.encode_images(adapter, nothing)[1]
    elif (unconditional == unconditional[:1]).all():
        unconditional = unconditional[:1]
    return ImageEmbeds(conditional=conditional, unconditional=unconditional, origin=origin)


def views(prompt: ImagePrompt, loaded: LoadedAdapter) -> list[Image.Image]:
    """What the encoder sees of each picture of an image prompt, or of each of its tiles.

    Behind a picture that is looked at more closely come its parts.
    """
    recipe = ClipRecipe.from_config(loaded.preprocessing)
    if prompt.fit == TILE:
        tiles = [tile for part in prompt.parts for tile, _ in tile_prompts(part, recipe.output[0])]
        return [view for tile in tiles for view in views(tile, loaded)]
    fit = prompt.fit or CENTER_CROP
    seen = encoder_views(prompt.images, loaded.preprocessing, fit, prompt.sharpen)
    masks = seen_masks(prompt, recipe)
    whole = [masked_view(view, mask, recipe) for view, mask in zip(seen, masks, strict=True)]
    parts = part_views(prompt, loaded.preprocessing)
    return [view for first, rest in zip(whole, parts, strict=True) for view in (first, *rest)]


def _source(
    given: Picture | Sequence[Picture] | ImageEmbeds,
    prompt: ImagePrompt,
    loaded: LoadedAdapter,
    what: str,
) -> Floats | ImageEmbeds:
    if isinstance(given, ImageEmbeds):
        origin = origin_of(loaded)
        given.origin.check(origin, what)
        return replace(given, origin=origin)
    fit = prompt.fit or CENTER_CROP
    return clip_pixels(pictures_of(given), loaded.preprocessing, fit, prompt.sharpen)


def _losses(prompt: ImagePrompt, loaded: LoadedAdapter) -> tuple[str, ...]:
    """A word on every picture of which the default crop, or the crop of a box, loses a part."""
    if isinstance(prompt.fit, str):
        return ()  # it was chosen
    recipe = ClipRecipe.from_config(loaded.preprocessing)
    warnings = []
    for number, picture in enumerate(prompt.images, start=1):
        image = to_rgb(picture)
        share = kept(image.width, image.height, prompt.fit or CENTER_CROP, recipe)
        if share < 1.0 - _WORTH_A_WORD:
            where = "the box in " if prompt.fit else ""
            warnings.append(
                f"picture {number} ({image.width} × {image.height}): the image encoder sees the "
                f"middle {share:.0%} of {where}it; fit='pad' or 'squash' keeps all, "
                "fit='center-crop' says that this is meant"
            )
    return tuple(warnings)
