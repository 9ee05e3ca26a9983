"""Which image encoder an adapter uses, and how pictures are prepared for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ipa.contract.adapter import AdapterSpec
from ipa.contract.backend import Floats, LoadedAdapter
from ipa.contract.errors import CheckpointError
from ipa.contract.files import read_json
from ipa.contract.left_out import LeftOut
from ipa.contract.model import AdapterFiles, ModelFolder
from ipa.contract.specs import ClipVisionSpec

from .images import default_preprocessing

_PREPROCESSING = "preprocessor_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderFiles:
    """An image encoder that fits an adapter: where it lies, what it is, what it wants to see."""

    folder: Path
    variant: str | None
    spec: ClipVisionSpec
    preprocessing: Mapping[str, Any]


def find_encoder(
    adapter: AdapterSpec, files: AdapterFiles, model: ModelFolder
) -> EncoderFiles | None:
    """The encoder that comes with the adapter, else the model's own; None if it needs none.

    Raises:
        CheckpointError: There is none, or the one found gives features of another width, or this
            version does not generate with such an adapter.
    """
    adapter.check_runnable(files.weights.name)
    if adapter.feature == "face":
        return None
    if files.image_encoder is not None:
        folder, variant = files.image_encoder, None
        spec = ClipVisionSpec.from_config(
            read_json(folder / "config.json"), str(folder / "config.json")
        )
    elif model.image_encoder is not None:
        folder, spec = model.path / "image_encoder", model.image_encoder
        variant = model.variant_of("image_encoder")
    else:
        raise CheckpointError(
            f"{files.weights.name} needs an image encoder",
            found="none beside the file, and none in the model",
            remedy=f"pass image_encoder_folder= with {adapter.encoder_needed}",
        )
    adapter.check_encoder(spec, files.weights.name)
    return EncoderFiles(
        folder=folder,
        variant=variant,
        spec=spec,
        preprocessing=preprocessing(folder, model.path, spec.image_size),
    )


def loaded_adapter(
    spec: AdapterSpec,
    encoder: EncoderFiles | None,
    encoder_sha256: str,
    nbytes: int,
    left_out: LeftOut,
) -> LoadedAdapter:
    """What a backend tells of an adapter, with or without an image encoder."""
    return LoadedAdapter(
        spec=spec,
        encoder=encoder.spec if encoder else None,
        encoder_name=str(encoder.folder) if encoder else "",
        encoder_sha256=encoder_sha256,
        preprocessing=encoder.preprocessing if encoder else {},
        nbytes=nbytes,
        left_out=left_out,
    )


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
    """The encoder's own settings, or the model's where they are of the right size, or CLIP's."""
    for path in (folder / _PREPROCESSING, model / "feature_extractor" / _PREPROCESSING):
        if path.is_file():
            settings: Mapping[str, Any] = read_json(path)
            crop = settings.get("crop_size", image_size)
            side = crop.get("height") if isinstance(crop, dict) else crop
            if side == image_size:
                return settings
    return default_preprocessing(image_size)
