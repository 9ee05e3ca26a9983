"""From an image prompt to the features that its adapter's projector takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image

from ipa.contract.backend import Backend, Floats, LoadedAdapter
from ipa.contract.combining import CONCAT
from ipa.contract.embeds import EmbedsOrigin, ImageEmbeds, check_feature
from ipa.contract.fit import CENTER_CROP, Fit
from ipa.contract.image_prompt import ImagePrompt, Negative, Picture, pictures_of
from ipa.prepare.clip_recipe import ClipRecipe
from ipa.prepare.fit import kept
from ipa.prepare.images import clip_pixels, encoder_views, to_rgb
from ipa.prepare.ipadpt import read_ipadpt
from ipa.prepare.noise_picture import noise_picture
from ipa.prepare.profiles import HOUSE, Profile

_WORTH_A_WORD = 0.01  # of a picture's area that is lost


class EncodingOptions(TypedDict, total=False):
    """The keywords of `ImagePrompt` that matter before the projector."""

    combine: str
    negative: Negative | None
    fit: Fit | None
    sharpen: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFeatures:
    """What the features of one image prompt will be made of, checked.

    Attributes:
        source: Prepared pixels (N, 3, S, S), or embeds that were given.
        negative: The same for what replaces the unconditional features; None where nothing does.
        combine: How several pictures become one.
        origin: What the adapter needs.
        warnings: What is lost of the pictures.
        weights: A factor on each picture's features before they are combined, or None.
    """

    source: Floats | ImageEmbeds
    negative: Floats | ImageEmbeds | None
    combine: str
    origin: EmbedsOrigin
    warnings: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    def compute(self, backend: Backend, adapter: str) -> ImageEmbeds:
        """Run the encoder on what are pictures, then combine."""
        embeds = self._encode(self.source, backend, adapter)
        if self.negative is not None:
            embeds = embeds.against(self._encode(self.negative, backend, adapter))
        if self.combine == CONCAT and self.weights is None:
            return embeds
        return embeds.combine(self.combine, self.weights)

    def _encode(self, source: Floats | ImageEmbeds, backend: Backend, adapter: str) -> ImageEmbeds:
        if isinstance(source, ImageEmbeds):
            return source
        conditional, unconditional = backend.encode_images(adapter, source)
        return ImageEmbeds(conditional=conditional, unconditional=unconditional, origin=self.origin)


def plan_features(
    prompt: ImagePrompt,
    loaded: LoadedAdapter,
    profile: Profile = HOUSE,
    weights: tuple[float, ...] | None = None,
) -> PlannedFeatures:
    """Prepare the pictures of an image prompt, and check embeds, for a loaded adapter.

    Args:
        prompt: The image prompt.
        loaded: The adapter.
        profile: Whose preprocessing is followed, and whose unconditional features.
        weights: See `PlannedFeatures`.

    Raises:
        RequestError: A picture cannot be used, or embeds are of another encoder, kind or
            preprocessing.
    """
    origin = origin_of(loaded, profile)
    negative = prompt.negative
    if isinstance(negative, str):
        negative = noise_picture()
    away: Floats | ImageEmbeds | None = None
    if negative is not None:
        away = _source(negative, prompt, loaded, "the negative embeds", profile)
    elif not isinstance(prompt.image, ImageEmbeds):
        away = _black(loaded, profile)
    return PlannedFeatures(
        source=_source(prompt.image, prompt, loaded, "the embeds", profile),
        negative=away,
        combine=prompt.combine,
        origin=origin,
        warnings=_losses(prompt, loaded),
        weights=weights,
    )


def origin_of(loaded: LoadedAdapter, profile: Profile = HOUSE) -> EmbedsOrigin:
    """Where the features that an adapter takes come from."""
    encoder = loaded.encoder
    made: tuple[object, ...] = astuple(ClipRecipe.from_config(loaded.preprocessing))
    own = (profile.clip_resize, profile.unconditional)
    if own != (HOUSE.clip_resize, HOUSE.unconditional):
        made = (*made, *own)
    return EmbedsOrigin(
        feature=check_feature(loaded.spec.feature),
        encoder=f"a CLIP vision model of {encoder.layers} layers, hidden_size {encoder.width}, "
        f"projection_dim {encoder.projection}, {encoder.image_size} pixels",
        encoder_sha256=loaded.encoder_sha256,
        preprocessing_sha256=hashlib.sha256(repr(made).encode()).hexdigest(),
    )


def load_embeds(
    path: str | Path,
    backend: Backend,
    adapter: str,
    loaded: LoadedAdapter,
    profile: Profile = HOUSE,
) -> ImageEmbeds:
    """Embeds of a file: ours, checked, or an .ipadpt, of which only shapes can be checked.

    A file without unconditional features gets those of no picture, as the profile has them.

    Raises:
        CheckpointError: The file is damaged, or its shapes do not fit the adapter.
        RequestError: The embeds are of another encoder or kind.
    """
    origin = origin_of(loaded, profile)
    if Path(path).suffix == ".safetensors":
        embeds = ImageEmbeds.load(path)
        embeds.origin.check(origin, f"the embeds of {path}")
        return embeds
    encoder, states = loaded.encoder, origin.feature == "states"
    shape = (encoder.tokens, encoder.width) if states else (encoder.projection,)
    conditional, unconditional = read_ipadpt(Path(path), shape)
    if unconditional is None:
        black, side = _black(loaded, profile), encoder.image_size
        nothing = np.zeros((1, encoder.channels, side, side), np.float32)
        seen = backend.encode_images(adapter, nothing if black is None else black)
        unconditional = seen[1] if black is None else seen[0]
    elif (unconditional == unconditional[:1]).all():
        unconditional = unconditional[:1]
    return ImageEmbeds(conditional=conditional, unconditional=unconditional, origin=origin)


def views(
    prompt: ImagePrompt, loaded: LoadedAdapter, profile: Profile = HOUSE
) -> list[Image.Image]:
    """What the encoder sees of each picture of an image prompt."""
    fit, resize = prompt.fit or CENTER_CROP, profile.clip_resize
    return encoder_views(prompt.images, loaded.preprocessing, fit, prompt.sharpen, resize)


def _source(
    given: Picture | Sequence[Picture] | ImageEmbeds,
    prompt: ImagePrompt,
    loaded: LoadedAdapter,
    what: str,
    profile: Profile,
) -> Floats | ImageEmbeds:
    if isinstance(given, ImageEmbeds):
        origin = origin_of(loaded, profile)
        given.origin.check(origin, what)
        return replace(given, origin=origin)
    fit, resize = prompt.fit or CENTER_CROP, profile.clip_resize
    return clip_pixels(pictures_of(given), loaded.preprocessing, fit, prompt.sharpen, resize)


def _black(loaded: LoadedAdapter, profile: Profile) -> Floats | None:
    """The pixels of a black picture, if the unconditional features are an encoder's of them."""
    if profile.unconditional != "black" or loaded.spec.feature != "states":
        return None
    black = Image.new("RGB", (loaded.encoder.image_size,) * 2)
    return clip_pixels([black], loaded.preprocessing, resize=profile.clip_resize)


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
