"""Which image encoder an adapter uses, and how pictures are prepared for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ipa.arrays import Floats
from ipa.backend.protocol import LoadedAdapter
from ipa.errors import CheckpointError
from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipVisionSpec
from ipa.model.files import read_json
from ipa.model.folder import AdapterFiles, ModelFolder
from ipa.model.ignoring import Contents, Ignore
from ipa.model.left_out import LeftOut
from ipa.model.preprocessor import default_preprocessing

from .encoder_places import FoundEncoder, fitting_encoder, read_encoder

_PREPROCESSING = "preprocessor_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderFiles:
    """An image encoder that fits an adapter: where it lies, what it is, what it wants to see.

    `folder` may be a single file, whose config nothing beside it need tell.
    """

    folder: Path
    variant: str | None
    spec: ClipVisionSpec
    preprocessing: Mapping[str, Any]
    config: Mapping[str, Any]


def find_encoder(
    adapter: AdapterSpec, files: AdapterFiles, model: ModelFolder
) -> EncoderFiles | None:
    """Find the encoder: the adapter's, else the model's own; None if it needs none.

    Raises:
        CheckpointError: There is none, or the one found gives features of another width, or this
            version does not generate with such an adapter.
    """
    adapter.check_runnable(files.weights.name)
    if adapter.feature == "face":
        return None
    found, variant = _found(adapter, files, model)
    adapter.check_encoder(found.spec, files.weights.name)
    folder = found.path.parent if found.path.is_file() else found.path
    return EncoderFiles(
        folder=found.path,
        variant=variant,
        spec=found.spec,
        preprocessing=preprocessing(folder, model.path, found.spec.image_size),
        config=found.config,
    )


def _found(
    adapter: AdapterSpec, files: AdapterFiles, model: ModelFolder
) -> tuple[FoundEncoder, str | None]:
    """The encoder, and the variant of its files: the adapter's, the model's, or one nearby."""
    if files.image_encoder is not None:
        return read_encoder(files.image_encoder), None
    spec = model.image_encoder
    if files.encoders_nearby is not None and not (spec and adapter.fits_encoder(spec)):
        nearby = fitting_encoder(adapter, files.encoders_nearby, files.weights.name)
        if nearby is not None:
            return nearby, None
    if spec is None:
        raise CheckpointError(
            f"{files.weights.name} needs an image encoder",
            found="none beside the file, and none in the model",
            remedy=f"pass image_encoder_folder= with {adapter.encoder_needed}",
        )
    folder = model.path / "image_encoder"
    config = read_json(folder / "config.json")
    return FoundEncoder(folder, config, spec), model.variant_of("image_encoder")


def loaded_adapter(
    spec: AdapterSpec,
    encoder: EncoderFiles | None,
    encoder_sha256: str,
    nbytes: int,
    left_out: LeftOut,
) -> LoadedAdapter:
    """The `LoadedAdapter` of a backend, with or without an image encoder."""
    return LoadedAdapter(
        spec=spec,
        encoder=encoder.spec if encoder else None,
        encoder_name=str(encoder.folder) if encoder else "",
        encoder_sha256=encoder_sha256,
        preprocessing=encoder.preprocessing if encoder else {},
        nbytes=nbytes,
        left_out=left_out,
    )


def left_out_of(ignore: Ignore, adapter: Contents, *encoder: Contents) -> list[str]:
    """What an adapter was loaded without: of its encoder's file, what was to be ignored."""
    return [*adapter.left_out, *(name for one in encoder for name in one.ignored(ignore))]


def fingerprint(weights: Iterable[Floats]) -> str:
    """A hash that tells image encoders apart, from the signs of some of their weights.

    Signs alone, because they are the same in every precision and every layout of a file, and on
    every backend; an encoder that was trained further differs in some of its many numbers near 0.

    Args:
        weights: The class and position embeddings, then the second bias of every feed-forward.
    """
    digest = hashlib.sha256()
    for array in weights:
        digest.update(f"{array.size}:".encode())
        digest.update(np.packbits(np.signbit(array)).tobytes())
    return digest.hexdigest()


def preprocessing(folder: Path, model: Path, image_size: int) -> Mapping[str, Any]:
    """Preprocessing for an encoder: its own, the model's if of the right size, or CLIP's."""
    for path in (folder / _PREPROCESSING, model / "feature_extractor" / _PREPROCESSING):
        if path.is_file():
            settings: Mapping[str, Any] = read_json(path)
            crop = settings.get("crop_size", image_size)
            side = crop.get("height") if isinstance(crop, dict) else crop
            if side == image_size:
                return settings
    return default_preprocessing(image_size)
