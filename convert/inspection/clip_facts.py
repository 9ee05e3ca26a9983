"""What can be told of CLIP's towers from headers, in every spelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ipa.contract.config import Config

from ..containers.checkpoint import Checkpoint
from ..reading import clip_configs
from ..tables import clip_spellings
from ..tables.clip_spellings import Spelling


def text_variant(checkpoint: Checkpoint) -> str:
    """The public text tower of this width."""
    return _variant(clip_configs.text_sizes(checkpoint), clip_configs.TEXT_TOWERS)


def text_remarks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The spelling."""
    return _spelling(checkpoint, clip_spellings.TEXT)


def vision_variant(checkpoint: Checkpoint) -> str:
    """The public image tower of this width."""
    return _variant(clip_configs.vision_sizes(checkpoint), clip_configs.VISION_TOWERS)


def vision_remarks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The spelling, and whether there is enough of it for an image encoder."""
    spelling = _spelling(checkpoint, clip_spellings.VISION)
    if "projection_dim" in clip_configs.vision_sizes(checkpoint):
        return spelling
    return (*spelling, "not supported: it lacks the projection that an image encoder has")


def whole_remarks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The spelling, and both towers."""
    return (
        *_spelling(checkpoint, clip_spellings.WHOLE),
        f"image tower: {vision_variant(checkpoint)}",
        f"text tower: {text_variant(checkpoint)}",
    )


def _variant(sizes: Mapping[str, int], towers: Mapping[str, Config]) -> str:
    """The tower of this width, of this picture size if there is one."""
    width = sizes.get("hidden_size", 0)
    of_width = {title: row for title, row in towers.items() if row["hidden_size"] == width}
    for title, row in of_width.items():
        if row.get("image_size") == sizes.get("image_size"):
            return title
    return next(iter(of_width), f"width {width}")


def _spelling(checkpoint: Checkpoint, spellings: Sequence[Spelling]) -> tuple[str, ...]:
    if checkpoint.converted:
        return ()
    return tuple(row.words for row in spellings if row.fits(checkpoint))[:1]
