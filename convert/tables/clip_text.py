"""CLIP's text tower: transformers' CLIPTextModel, with or without projection."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.model.clip import ClipTextSpec

from . import modules as clip_layers
from . import open_clip
from .layout import Tensor
from .modules import linear, norm
from .rules import Drop, Rename
from .spelling import Alias
from .table import Table

TITLE = "CLIP text encoder"

RENAMES = (
    Rename("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    Rename("text_model.embeddings.position_embedding.weight", "position_embedding.weight"),
    Rename("text_model.encoder.layers.**", "layers.**"),
    *clip_layers.RENAMES,
    Rename("text_model.final_layer_norm.*", "final_norm.*"),
    Rename("text_projection.weight", "projection.weight"),
)

# What a text tower lies under: ComfyUI names it by its size, OpenCLIP's CustomTextCLIP calls it
# `text`, the embedders of Stability's generative-models keep it as their `model`.
PREFIXES = ("clip_l", "clip_g", "clip_h", "text", "model")

# `transformer` holds transformers' CLIPTextModel in CompVis' embedder and in ComfyUI, but is a part
# of OpenCLIP's own network: only what transformers calls so is taken out of it.
EMBEDDER = (
    Rename("transformer.text_model.**", "text_model.**"),
    Rename("transformer.text_projection.weight", "text_projection.weight"),
    Rename("transformer.embeddings.**", "embeddings.**"),
    Rename("transformer.encoder.**", "encoder.**"),
    Rename("transformer.final_layer_norm.*", "final_layer_norm.*"),
)

# transformers from 5.6 saves CLIPTextModel without the prefix, as did some merges of SD1.
UNPREFIXED = (
    Rename("embeddings.**", "text_model.embeddings.**"),
    Rename("encoder.**", "text_model.encoder.**"),
    Rename("final_layer_norm.*", "text_model.final_layer_norm.*"),
)

ALIASES: tuple[Alias, ...] = (
    *(Rename(f"{prefix}.**", "**") for prefix in PREFIXES),
    *EMBEDDER,
    *UNPREFIXED,
    *open_clip.TEXT,
)

_OTHER_TOWER = "the image tower of the same CLIP, which is a network of its own"
DROPS = (
    Drop("text_model.embeddings.position_ids", "it counts 0, 1, 2, …: no weights"),
    Drop("vision_model.**", _OTHER_TOWER),
    Drop("visual_projection.weight", _OTHER_TOWER),
    Drop("visual.**", _OTHER_TOWER),
    *open_clip.DROPS,
)
UNPROJECTED_DROPS = (
    Drop("text_projection.weight", "the class of this model has no projection and never uses it"),
)
# Stable Diffusion 2 reads the states that enter the last of ViT-H's 24 layers; files in OpenCLIP's
# naming keep that layer, its config does not.
TRUNCATED_LAYERS = 23
TRUNCATED_DROPS = (
    Drop(
        f"text_model.encoder.layers.{TRUNCATED_LAYERS}.**",
        "Stable Diffusion 2 reads the states that enter this layer",
    ),
)


def table(spec: ClipTextSpec) -> Table:
    """The table of a text tower."""
    return Table(
        title=TITLE,
        tensors=tuple(tensors(spec)),
        renames=RENAMES,
        aliases=ALIASES,
        drops=_drops(spec),
    )


def _drops(spec: ClipTextSpec) -> tuple[Drop, ...]:
    if spec.projection is not None:
        return DROPS
    truncated = spec.layers == TRUNCATED_LAYERS
    return DROPS + UNPROJECTED_DROPS + (TRUNCATED_DROPS if truncated else ())


def tensors(spec: ClipTextSpec) -> Iterator[Tensor]:
    """Every tensor, as transformers up to 5.5 (and every public file) names it."""
    embeddings = "text_model.embeddings"
    yield Tensor(f"{embeddings}.token_embedding.weight", (spec.vocabulary, spec.width))
    yield Tensor(f"{embeddings}.position_embedding.weight", (spec.positions, spec.width))
    yield from clip_layers.layers("text_model", spec)
    yield from norm("text_model.final_layer_norm", spec.width)
    if spec.projection is not None:
        yield from linear("text_projection", spec.width, spec.projection, bias=False)
