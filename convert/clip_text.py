"""CLIP's text tower: transformers' CLIPTextModel, with or without projection."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.contract.specs import ClipTextSpec

from . import clip_layers
from .layout import Tensor
from .modules import linear, norm
from .rules import Drop, Rename
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

# transformers from 5.6 saves CLIPTextModel without the prefix.
ALIASES = (
    Rename("embeddings.**", "text_model.embeddings.**"),
    Rename("encoder.**", "text_model.encoder.**"),
    Rename("final_layer_norm.*", "text_model.final_layer_norm.*"),
)

DROPS = (
    Drop("text_model.embeddings.position_ids", "it counts 0, 1, 2, …: no weights"),
    Drop("logit_scale", "the temperature of CLIP's training; no network computes with it"),
)
UNPROJECTED_DROPS = (
    Drop("text_projection.weight", "the class of this model has no projection and never uses it"),
)


def table(spec: ClipTextSpec) -> Table:
    """The table of a text tower."""
    return Table(
        title=TITLE,
        tensors=tuple(tensors(spec)),
        renames=RENAMES,
        aliases=ALIASES,
        drops=DROPS + (UNPROJECTED_DROPS if spec.projection is None else ()),
    )


def tensors(spec: ClipTextSpec) -> Iterator[Tensor]:
    """Every tensor, as transformers up to 5.5 (and every public file) names it."""
    embeddings = "text_model.embeddings"
    yield Tensor(f"{embeddings}.token_embedding.weight", (spec.vocabulary, spec.width))
    yield Tensor(f"{embeddings}.position_embedding.weight", (spec.positions, spec.width))
    yield from clip_layers.layers("text_model", spec)
    yield from norm("text_model.final_layer_norm", spec.width)
    if spec.projection is not None:
        yield from linear("text_projection", spec.width, spec.projection, bias=False)
