"""From an image prompt to the features that its adapter's projector takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image

from ipa.adapters import AttachedAdapter
from ipa.contract.backend import Backend, Floats, Identity, LoadedAdapter
from ipa.contract.combining import CONCAT
from ipa.contract.embeds import EmbedsOrigin, ImageEmbeds, check_feature
from ipa.contract.errors import RequestError
from ipa.contract.faces import GivenFace
from ipa.contract.fit import CENTER_CROP, Fit
from ipa.contract.image_prompt import ImagePrompt, Negative, Picture, pictures_of
from ipa.prepare.clip_recipe import ClipRecipe
from ipa.prepare.faces import PlannedFaces, plan_faces
from ipa.prepare.fit import kept
from ipa.prepare.images import clip_pixels, encoder_views, to_rgb
from ipa.prepare.ipadpt import read_ipadpt
from ipa.prepare.noise_picture import noise_picture

_WORTH_A_WORD = 0.01  # of a picture's area that is lost


class EncodingOptions(TypedDict, total=False):
    """The keywords of `ImagePrompt` that matter before the projector."""

    combine: str
    negative: Negative | None
    fit: Fit | None
    sharpen: float
    face: GivenFace | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFeatures:
    """What the features of one image prompt will be made of, checked.

    Attributes:
        source: Prepared pixels (N, 3, S, S), or embeds that were given.
        negative: The same for what replaces the unconditional features; None where nothing does.
        combine: How several pictures become one.
        origin: What the adapter needs.
        warnings: What is lost of the pictures.
        identities: (N, width) beside the states of FaceID-Plus; None for other adapters.
        shortcut_scale: Of FaceID-Plus v2; None for all others.
    """

    source: Floats | ImageEmbeds
    negative: Floats | ImageEmbeds | None
    combine: str
    origin: EmbedsOrigin
    warnings: tuple[str, ...]
    identities: Floats | None = None
    shortcut_scale: float | None = None

    def identity(self, embeds: ImageEmbeds) -> Identity | None:
        """Whose face is seen in embeds, where they have an identity beside them."""
        own, nobody = embeds.conditional_face, embeds.unconditional_face
        if own is None or nobody is None:
            return None
        rows = np.broadcast_to(nobody, (len(embeds.unconditional), nobody.shape[1]))
        return Identity(own, rows, self.shortcut_scale)

    def compute(self, backend: Backend, adapter: str) -> ImageEmbeds:
        """Run the encoder on what are pictures, then combine."""
        embeds = self._encode(self.source, backend, adapter)
        if self.identities is not None:
            embeds = embeds.with_faces(self.identities, np.zeros_like(self.identities[:1]))
        if self.negative is not None:
            embeds = embeds.against(self._encode(self.negative, backend, adapter))
        return embeds if self.combine == CONCAT else embeds.combine(self.combine)

    def _encode(self, source: Floats | ImageEmbeds, backend: Backend, adapter: str) -> ImageEmbeds:
        if isinstance(source, ImageEmbeds):
            return source
        conditional, unconditional = backend.encode_images(adapter, source)
        return ImageEmbeds(conditional=conditional, unconditional=unconditional, origin=self.origin)


def plan_features(prompt: ImagePrompt, attached: AttachedAdapter) -> PlannedFeatures:
    """Prepare the pictures and faces of an image prompt, and check embeds, for a loaded adapter.

    Raises:
        RequestError: A picture or face cannot be used, or embeds are of another encoder or kind.
    """
    loaded, where = attached.loaded, attached.file
    origin = origin_of(loaded)
    given = prompt.image if isinstance(prompt.image, ImageEmbeds) else None
    faces = None
    if given is None or prompt.face is not None or not loaded.spec.face_width:
        faces = plan_faces(prompt, loaded.spec, attached.face_embedder, where)
    if given is not None:
        source: Floats | ImageEmbeds = _checked(given, loaded, where, faces)
    elif loaded.spec.feature == "face":
        source = _identities_alone(faces, origin)
    else:
        source = _pixels(faces.pictures if faces else prompt.images, prompt, loaded)
    return PlannedFeatures(
        source=source,
        negative=_negative(prompt, attached),
        combine=prompt.combine,
        origin=origin,
        warnings=_losses(prompt, loaded),
        identities=faces.identities if faces and loaded.spec.feature != "face" else None,
        shortcut_scale=_shortcut(prompt, loaded),
    )


def _shortcut(prompt: ImagePrompt, loaded: LoadedAdapter) -> float | None:
    if not loaded.spec.has_shortcut:
        return None
    return 1.0 if prompt.shortcut_scale is None else prompt.shortcut_scale


def _identities_alone(faces: PlannedFaces | None, origin: EmbedsOrigin) -> ImageEmbeds:
    if faces is None:
        raise RuntimeError("an adapter that takes faces has none")
    rows = faces.identities
    return ImageEmbeds(conditional=rows, unconditional=np.zeros_like(rows[:1]), origin=origin)


def _negative(prompt: ImagePrompt, attached: AttachedAdapter) -> Floats | ImageEmbeds | None:
    """What replaces the unconditional features; of FaceID, identities of faces."""
    loaded, negative = attached.loaded, prompt.negative
    if negative is None:
        return None
    if isinstance(negative, ImageEmbeds):
        return _checked(negative, loaded, attached.file, what="the negative embeds")
    if loaded.spec.feature == "face":
        if isinstance(negative, str):
            raise RequestError(
                f"{attached.file} sees faces alone, and noise has none",
                found=f"negative={negative!r}",
                remedy="pass a picture with a face, or embeds",
            )
        found = plan_faces(
            ImagePrompt(negative), loaded.spec, attached.face_embedder, attached.file
        )
        return _identities_alone(found, origin_of(loaded))
    pictures = (noise_picture(),) if isinstance(negative, str) else pictures_of(negative)
    return _pixels(pictures, prompt, loaded)


def origin_of(loaded: LoadedAdapter) -> EmbedsOrigin:
    """Where the features that an adapter takes come from."""
    encoder = loaded.encoder
    if encoder is None:
        kind = f"face embeddings of width {loaded.spec.face_width}, "
        kind += "as they are" if loaded.spec.takes_raw_face else "of length 1"
        told = hashlib.sha256(kind.encode()).hexdigest()
        return EmbedsOrigin(
            feature="face", encoder=kind, encoder_sha256=told, preprocessing_sha256=told
        )
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
    conditional, unconditional = read_ipadpt(Path(path), _shape(loaded))
    if unconditional is None:
        unconditional = _of_nothing(backend, adapter, loaded)
    elif (unconditional == unconditional[:1]).all():
        unconditional = unconditional[:1]
    return ImageEmbeds(conditional=conditional, unconditional=unconditional, origin=origin)


def _shape(loaded: LoadedAdapter) -> tuple[int, ...]:
    """Of the features of one picture."""
    encoder = loaded.encoder
    if encoder is None:
        return (loaded.spec.face_width,)
    states = loaded.spec.feature == "states"
    return (encoder.tokens, encoder.width) if states else (encoder.projection,)


def _of_nothing(backend: Backend, adapter: str, loaded: LoadedAdapter) -> Floats:
    encoder = loaded.encoder
    if encoder is None:
        return np.zeros((1, loaded.spec.face_width), np.float32)
    side = encoder.image_size
    return backend.encode_images(adapter, np.zeros((1, encoder.channels, side, side), np.float32))[
        1
    ]


def views(prompt: ImagePrompt, loaded: LoadedAdapter) -> list[Image.Image]:
    """What the encoder sees of each picture of an image prompt."""
    if loaded.encoder is None:
        raise RequestError("a FaceID adapter of this kind sees no pictures, but identities")
    fit = prompt.fit or CENTER_CROP
    return encoder_views(prompt.images, loaded.preprocessing, fit, prompt.sharpen)


def _checked(
    embeds: ImageEmbeds,
    loaded: LoadedAdapter,
    where: str,
    faces: PlannedFaces | None = None,
    what: str = "the embeds",
) -> ImageEmbeds:
    """Embeds that an adapter can use."""
    origin = origin_of(loaded)
    embeds.origin.check(origin, what)
    spec = loaded.spec
    has_faces = embeds.conditional_face is not None
    takes_faces = bool(spec.face_width) and spec.feature != "face"
    if has_faces != takes_faces and not (takes_faces and faces):
        verb = "needs an" if takes_faces else "takes no"
        raise RequestError(
            f"{where} {verb} identity beside {what}",
            found="embeds without any" if takes_faces else "embeds of a FaceID-Plus adapter",
            remedy="encode the pictures again with this adapter: encode_image_prompt",
        )
    return replace(embeds, origin=origin)


def _pixels(pictures: Sequence[Picture], prompt: ImagePrompt, loaded: LoadedAdapter) -> Floats:
    fit = prompt.fit or CENTER_CROP
    return clip_pixels(pictures, loaded.preprocessing, fit, prompt.sharpen)


def _losses(prompt: ImagePrompt, loaded: LoadedAdapter) -> tuple[str, ...]:
    """A word on every picture of which the default crop, or the crop of a box, loses a part."""
    if isinstance(prompt.fit, str) or loaded.encoder is None or loaded.spec.face_width:
        return ()  # it was chosen, or the face is what counts
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
