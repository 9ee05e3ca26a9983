"""From an image prompt to the features that its adapter's projector takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np

from ipa.arrays import Floats
from ipa.backend.protocol import Backend, Identity, LoadedAdapter
from ipa.errors import RequestError
from ipa.model.preprocessor import ClipPreprocessor
from ipa.prepare.images.clip import clip_pixels
from ipa.request.combining import CONCAT
from ipa.request.embeds import EmbedsOrigin, ImageEmbeds
from ipa.request.faces import GivenFace
from ipa.request.image_prompt import ImagePrompt, Negative
from ipa.request.masks import Mask
from ipa.request.picture_options import CENTER_CROP, Fit
from ipa.request.pictures import Picture, pictures_of
from ipa.request.profiles import HOUSE, Profile
from ipa.watching import watch

from .attached import AttachedAdapter
from .embeds_origin import black_pixels, origin_of
from .encoder_masks import masked_pixels, seen_masks
from .encoder_views import losses
from .enhancement import PlannedEnhancement, plan_enhancement
from .faces import PlannedFaces, plan_faces, shortcut_scale
from .noise_picture import with_noise
from .text_direction import TextDirection


class EncodingOptions(TypedDict, total=False):
    """The keywords of `ImagePrompt` that matter before the projector."""

    combine: str
    negative: Negative | None
    fit: Fit | None
    sharpen: float
    face: GivenFace | None
    encoder_mask: Mask | Sequence[Mask | None] | None
    enhance_tiles: int
    enhance_ratio: float
    neg_content_prompt: str | None
    neg_content_scale: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFeatures:
    """A checked plan for the features of one image prompt.

    Attributes:
        source: Prepared pixels (N, 3, S, S), or embeds that were given.
        negative: The same for what replaces the unconditional features; None where nothing does.
        combine: How several pictures become one.
        origin: What the adapter needs.
        warnings: What is lost of the pictures, or of a text.
        closer: What a closer look at the pictures adds.
        direction: A text to take away from them.
        identities: (N, width) beside the states of FaceID-Plus; None for other adapters.
        shortcut_scale: Of FaceID-Plus v2; None for all others.
        weights: A factor on each picture's features before they are combined, or None.
    """

    source: Floats | ImageEmbeds
    negative: Floats | ImageEmbeds | None
    combine: str
    origin: EmbedsOrigin
    warnings: tuple[str, ...]
    closer: PlannedEnhancement | None = None
    direction: TextDirection | None = None
    identities: Floats | None = None
    shortcut_scale: float | None = None
    weights: tuple[float, ...] | None = None

    def identity(self, embeds: ImageEmbeds) -> Identity | None:
        """The identity beside embeds whose face they show, if there is one."""
        face, nobody = embeds.conditional_face, embeds.unconditional_face
        if face is None or nobody is None:
            return None
        rows = np.broadcast_to(nobody, (len(embeds.unconditional), nobody.shape[1]))
        return Identity(face, rows, self.shortcut_scale)

    def compute(self, backend: Backend, adapter: str) -> ImageEmbeds:
        """Run the encoder on the pictures, then combine the features."""
        given = [s for s in (self.source, self.negative) if isinstance(s, np.ndarray)]
        watch().expect("encode", sum(map(len, given)), "pictures")
        embeds = self._encode(self.source, backend, adapter)
        if self.closer is not None:
            embeds = self.closer.of(embeds, backend, adapter)
        if self.direction is not None:
            embeds = self.direction.taken_from(embeds, backend)
        if self.identities is not None:
            embeds = embeds.with_faces(self.identities, np.zeros_like(self.identities[:1]))
        if self.negative is not None:
            embeds = embeds.against(self._encode(self.negative, backend, adapter))
        if self.combine == CONCAT and self.weights is None:
            return embeds
        return embeds.combine(self.combine, self.weights)

    def _encode(self, source: Floats | ImageEmbeds, backend: Backend, adapter: str) -> ImageEmbeds:
        if isinstance(source, ImageEmbeds):
            return source
        conditional, unconditional = backend.encode_images(adapter, source)
        watch().advance("encode", len(source), "pictures")
        return ImageEmbeds(conditional=conditional, unconditional=unconditional, origin=self.origin)


@dataclass(frozen=True, slots=True)
class Reader:
    """An adapter that reads an image prompt, with its name and the profile in use."""

    adapter: str
    attached: AttachedAdapter
    profile: Profile = HOUSE

    @property
    def loaded(self) -> LoadedAdapter:
        """The backend's facts of the adapter."""
        return self.attached.loaded

    @property
    def origin(self) -> EmbedsOrigin:
        """The origin of the features that the adapter takes."""
        return origin_of(self.loaded, self.profile)

    def pixels(self, pictures: Sequence[Picture], prompt: ImagePrompt) -> Floats:
        """Pictures as the adapter's encoder sees them."""
        fit, resize = prompt.fit or CENTER_CROP, self.profile.pixel_rule
        return clip_pixels(pictures, self.loaded.preprocessing, fit, prompt.sharpen, resize)


def plan_features(
    prompt: ImagePrompt,
    reader: Reader,
    direction: TextDirection | None = None,
    weights: tuple[float, ...] | None = None,
) -> PlannedFeatures:
    """Prepare the pictures and faces of an image prompt, and check embeds, for a loaded adapter.

    Args:
        prompt: What a person asked for.
        reader: The adapter, and whose preprocessing and unconditional features are followed.
        direction: What `prepare.text_direction` made of the prompt's text.
        weights: See `PlannedFeatures`.

    Raises:
        RequestError: A picture or face cannot be used, or embeds are of another encoder, kind or
            preprocessing.
    """
    loaded, attached = reader.loaded, reader.attached
    prompt, faces = with_noise(prompt), None
    if not isinstance(prompt.image, ImageEmbeds) or prompt.face is not None:
        faces = plan_faces(prompt, loaded.spec, attached.face_embedder, attached.file)
    if faces is not None and faces.pictures:
        prompt = replace(prompt, image=faces.pictures, face=None)
    has_identities = faces is not None and loaded.spec.feature != "face"
    return PlannedFeatures(
        source=_source(prompt, reader, faces),
        negative=_negative(prompt, reader),
        combine=prompt.combine,
        origin=reader.origin,
        warnings=(*losses(prompt, loaded), *(direction.warnings if direction else ())),
        closer=plan_enhancement(prompt, reader.adapter, loaded, reader.profile.pixel_rule),
        direction=direction,
        identities=faces.identities if faces and has_identities else None,
        shortcut_scale=shortcut_scale(prompt, loaded.spec, reader.profile),
        weights=weights,
    )


def _source(
    prompt: ImagePrompt, reader: Reader, faces: PlannedFaces | None
) -> Floats | ImageEmbeds:
    """The input of the adapter: embeds, identities alone, or pixels."""
    if isinstance(prompt.image, ImageEmbeds):
        return _checked(prompt.image, reader, faces)
    if faces is not None and reader.loaded.spec.feature == "face":
        return _identities_alone(faces, reader.origin)
    recipe = ClipPreprocessor.from_config(reader.loaded.preprocessing)
    return masked_pixels(reader.pixels(prompt.images, prompt), seen_masks(prompt, recipe))


def _identities_alone(faces: PlannedFaces, origin: EmbedsOrigin) -> ImageEmbeds:
    rows = faces.identities
    return ImageEmbeds(conditional=rows, unconditional=np.zeros_like(rows[:1]), origin=origin)


def _negative(prompt: ImagePrompt, reader: Reader) -> Floats | ImageEmbeds | None:
    """The unconditional features' replacement; of FaceID, identities of faces."""
    loaded, attached = reader.loaded, reader.attached
    negative: Any = prompt.negative  # noise is a picture by now
    if negative is None:
        given = isinstance(prompt.image, ImageEmbeds)
        return None if given else black_pixels(loaded, reader.profile)
    if isinstance(negative, ImageEmbeds):
        return _checked(negative, reader, what="the negative embeds")
    pictures = pictures_of(negative)
    if loaded.spec.feature != "face":
        return reader.pixels(pictures, prompt)
    away = ImagePrompt(pictures)
    faces = plan_faces(away, loaded.spec, attached.face_embedder, attached.file)
    return None if faces is None else _identities_alone(faces, reader.origin)


def _checked(
    embeds: ImageEmbeds,
    reader: Reader,
    faces: PlannedFaces | None = None,
    what: str = "the embeds",
) -> ImageEmbeds:
    """Embeds, checked that an adapter can use them."""
    origin, spec = reader.origin, reader.loaded.spec
    embeds.origin.check(origin, what)
    has_faces = embeds.conditional_face is not None
    takes_faces = bool(spec.face_width) and spec.feature != "face"
    if has_faces != takes_faces and not (takes_faces and faces):
        verb = "needs an" if takes_faces else "takes no"
        raise RequestError(
            f"{reader.attached.file} {verb} identity beside {what}",
            found="embeds without any" if takes_faces else "embeds of a FaceID-Plus adapter",
            remedy="encode the pictures again with this adapter: encode_image_prompt",
        )
    return replace(embeds, origin=origin)
