"""CLIP's image tower: transformers' CLIPVisionModelWithProjection."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.model.clip import ClipVisionSpec

from . import modules as clip_layers
from . import open_clip
from .layout import Tensor
from .modules import convolution, linear, norm
from .rules import Drop, Rename
from .spelling import Alias
from .table import Table

TITLE = "CLIP image encoder"

RENAMES = (
    Rename("vision_model.embeddings.class_embedding", "class_embedding"),
    Rename("vision_model.embeddings.patch_embedding.weight", "patch_embedding.weight"),
    Rename("vision_model.embeddings.position_embedding.weight", "position_embedding.weight"),
    Rename("vision_model.pre_layrnorm.*", "pre_norm.*"),
    Rename("vision_model.encoder.layers.**", "layers.**"),
    *clip_layers.RENAMES,
    Rename("vision_model.post_layernorm.*", "post_norm.*"),
    Rename("visual_projection.weight", "projection.weight"),
)

# transformers from 5.6 saves CLIPVisionModel, which has no projection, without the prefix.
UNPREFIXED = (
    Rename("embeddings.**", "vision_model.embeddings.**"),
    Rename("encoder.**", "vision_model.encoder.**"),
    Rename("pre_layrnorm.*", "vision_model.pre_layrnorm.*"),
    Rename("post_layernorm.*", "vision_model.post_layernorm.*"),
)

ALIASES: tuple[Alias, ...] = (
    *UNPREFIXED,
    # "layrnorm" is a misspelling in transformers that every public file keeps; some ports mended it
    Rename("vision_model.pre_layernorm.*", "vision_model.pre_layrnorm.*"),
    *open_clip.VISION,
)

_OTHER_TOWER = "the text tower of the same CLIP, which is a network of its own"
DROPS = (
    Drop("vision_model.embeddings.position_ids", "it counts 0, 1, 2, …: no weights"),
    *(
        Drop(pattern, _OTHER_TOWER)
        for pattern in (
            "text_model.**",
            "text_projection.weight",
            # in OpenCLIP's naming
            "text.**",
            "token_embedding.weight",
            "positional_embedding",
            "transformer.resblocks.**",
            "ln_final.*",
            "text_projection",
        )
    ),
    *open_clip.DROPS,
)


def table(spec: ClipVisionSpec) -> Table:
    """The table of an image tower."""
    return Table(
        title=TITLE,
        tensors=tuple(tensors(spec)),
        renames=RENAMES,
        aliases=ALIASES,
        drops=DROPS,
    )


def tensors(spec: ClipVisionSpec) -> Iterator[Tensor]:
    """Every tensor, as transformers names and stores it."""
    embeddings, width = "vision_model.embeddings", spec.width
    yield Tensor(f"{embeddings}.class_embedding", (width,))
    yield from convolution(
        f"{embeddings}.patch_embedding", spec.channels, width, spec.patch_size, bias=False
    )
    yield Tensor(f"{embeddings}.position_embedding.weight", (spec.tokens, width))
    yield from norm("vision_model.pre_layrnorm", width)
    yield from clip_layers.layers("vision_model", spec)
    yield from norm("vision_model.post_layernorm", width)
    yield from linear("visual_projection", width, spec.projection, bias=False)
