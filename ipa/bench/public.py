"""Public structures of their true sizes, of which no file is needed: models, encoders, adapters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Literal, cast

from ipa import bases, demo
from ipa.bases import Base
from ipa.errors import RequestError, shown
from ipa.model.adapter import HEAD_WIDTH, AdapterSpec
from ipa.model.clip import ClipVisionSpec
from ipa.model.folder import ModelFolder, SingleFile
from ipa.sources.model_folder import open_configs, open_model_folder
from ipa.sources.models import resolve_model

AdapterName = Literal["base", "plus"]
BASES = ("sd15", "sd2", "sdxl", "demo")
ADAPTERS = ("base", "plus")
TOKENS: Mapping[str, int] = MappingProxyType({"base": 4, "plus": 16})
"""Image tokens of an adapter's picture."""

_CLIP = {
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
_VIT_H = _CLIP | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "projection_dim": 1024,
}
_BIG_G = _CLIP | {
    "hidden_size": 1664,
    "intermediate_size": 8192,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "projection_dim": 1280,
}
_SDXL_PLUS_WIDTH = 1280


def open_base(name: str) -> ModelFolder:
    """The structure of a public base model, or of the demo's. Raises RequestError for another."""
    if name not in BASES:
        raise RequestError(
            "there is no such base model",
            found=shown(name),
            remedy=f"one of {', '.join(BASES)}; --model measures a model of your own",
        )
    if name == "demo":
        return open_model_folder(demo.model(), name="demo")
    folder = bases.folder(cast(Base, name))
    file = SingleFile(path=folder, vocabulary=bases.vocabulary(), changes={})
    return open_configs(folder, name=name, single_file=file)


@cache
def structure(base: str, model: str | None) -> ModelFolder:
    """The structure of a model by its name, or else of a base.

    Raises:
        CheckpointError: The model is not there, or not supported.
        RequestError: There is no such base.
    """
    return open_base(base) if model is None else resolve_model(model)


def image_encoder(kind: str, model: ModelFolder) -> ClipVisionSpec:
    """The structure of the image encoder that an adapter uses: the model's own, ViT-H or bigG."""
    if model.image_encoder is not None:
        return model.image_encoder
    config = _BIG_G if model.is_xl and kind == "base" else _VIT_H
    return ClipVisionSpec.from_config(config)


def adapter(kind: str, model: ModelFolder) -> AdapterSpec:
    """The structure of a public adapter for a model: "base" (4 tokens) or "plus" (16)."""
    encoder, context = image_encoder(kind, model), model.unet.context_width
    if kind == "base":
        return AdapterSpec(
            projector="linear",
            feature="embedding",
            feature_width=encoder.projection,
            tokens=TOKENS[kind],
            context_width=context,
        )
    width = _SDXL_PLUS_WIDTH if model.is_xl else context
    return AdapterSpec(
        projector="resampler",
        feature="states",
        feature_width=encoder.width,
        tokens=TOKENS[kind],
        context_width=context,
        width=width,
        layers=4,
        heads=max(1, width // HEAD_WIDTH),
    )
