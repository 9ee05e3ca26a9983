"""The origin of image embeds, and embeds that are read from files."""

from __future__ import annotations

import hashlib
from dataclasses import astuple
from pathlib import Path

import numpy as np
from PIL import Image

from ipa.arrays import Floats
from ipa.backend.protocol import Backend, LoadedAdapter
from ipa.model.preprocessor import ClipPreprocessor
from ipa.prepare.images.clip import clip_pixels
from ipa.request.embeds import EmbedsOrigin, ImageEmbeds, check_feature
from ipa.request.profiles import HOUSE, Profile

from .ipadpt import read_ipadpt


def origin_of(loaded: LoadedAdapter, profile: Profile = HOUSE) -> EmbedsOrigin:
    """The origin of the features that an adapter takes: encoder and preprocessing."""
    encoder = loaded.encoder
    if encoder is None:
        kind = f"face embeddings of width {loaded.spec.face_width}, "
        kind += "as they are" if loaded.spec.takes_raw_face else "of length 1"
        digest = hashlib.sha256(kind.encode()).hexdigest()
        return EmbedsOrigin(
            feature="face", encoder=kind, encoder_sha256=digest, preprocessing_sha256=digest
        )
    made: tuple[object, ...] = astuple(ClipPreprocessor.from_config(loaded.preprocessing))
    profile_choices = (profile.clip_resize, profile.unconditional)
    if profile_choices != (HOUSE.clip_resize, HOUSE.unconditional):
        made = (*made, *profile_choices)
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
    """Load embeds: a file of ours, checked, or an .ipadpt, of which only shapes can be checked.

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
    conditional, unconditional = read_ipadpt(Path(path), _shape(loaded))
    if unconditional is None:
        unconditional = _of_nothing(backend, adapter, loaded, profile)
    elif (unconditional == unconditional[:1]).all():
        unconditional = unconditional[:1]
    return ImageEmbeds(conditional=conditional, unconditional=unconditional, origin=origin)


def _shape(loaded: LoadedAdapter) -> tuple[int, ...]:
    """The shape of the features of one picture."""
    encoder = loaded.encoder
    if encoder is None:
        return (loaded.spec.face_width,)
    states = loaded.spec.feature == "states"
    return (encoder.tokens, encoder.width) if states else (encoder.projection,)


def _of_nothing(backend: Backend, adapter: str, loaded: LoadedAdapter, profile: Profile) -> Floats:
    encoder = loaded.encoder
    if encoder is None:
        return np.zeros((1, loaded.spec.face_width), np.float32)
    black, side = black_pixels(loaded, profile), encoder.image_size
    if black is not None:
        return backend.encode_images(adapter, black)[0]
    grey = np.zeros((1, encoder.channels, side, side), np.float32)
    return backend.encode_images(adapter, grey)[1]


def black_pixels(loaded: LoadedAdapter, profile: Profile) -> Floats | None:
    """The pixels of a black picture, if that picture's features are the unconditional ones."""
    if profile.unconditional != "black" or loaded.spec.feature != "states":
        return None
    if loaded.encoder is None:
        return None
    black = Image.new("RGB", (loaded.encoder.image_size,) * 2)
    return clip_pixels([black], loaded.preprocessing, resize=profile.pixel_rule)
