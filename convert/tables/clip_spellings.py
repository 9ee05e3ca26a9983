"""The spellings of CLIP's towers that the tables read, and how each is told by its names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from . import clip_text
from .rules import fits

WHOLE_TITLE = "whole CLIP model"


@dataclass(frozen=True, slots=True)
class Spelling:
    """One spelling of a tower's tensors, and the names that tell it.

    Attributes:
        words: For a person.
        needs: Patterns (see `rules`); a file in this spelling has a name that matches each.
    """

    words: str
    needs: tuple[str, ...]

    def fits(self, names: Iterable[str]) -> bool:
        """Whether a file with these names is in this spelling."""
        return fits(names, self.needs)


_TRANSFORMERS = "named as in transformers"
_OPEN_CLIP = "named as in OpenCLIP"
_FLAT = "named as in transformers from 5.6 on, without prefix"


def _text() -> Iterator[Spelling]:
    tokens = "embeddings.token_embedding.weight"
    for outer in ("", *(f"{prefix}." for prefix in clip_text.PREFIXES)):
        under = f", under {outer}" if outer else ""
        embedder = f", under {outer}transformer."
        inner = f"{outer}transformer."
        yield Spelling(f"{_TRANSFORMERS}{under}", (f"{outer}text_model.{tokens}",))
        yield Spelling(f"{_TRANSFORMERS}{embedder}", (f"{inner}text_model.{tokens}",))
        yield Spelling(f"{_FLAT}{under}", (f"{outer}{tokens}", f"{outer}encoder.layers.**"))
        yield Spelling(f"{_FLAT}{embedder}", (f"{inner}{tokens}", f"{inner}encoder.layers.**"))
        yield Spelling(
            f"{_OPEN_CLIP}{under}", (f"{outer}token_embedding.weight", f"{inner}resblocks.**")
        )


TEXT = tuple(_text())
VISION = (
    Spelling(_TRANSFORMERS, ("vision_model.embeddings.class_embedding",)),
    Spelling(_FLAT, ("embeddings.class_embedding", "encoder.layers.**")),
    Spelling(_OPEN_CLIP, ("visual.class_embedding",)),
)
WHOLE = (
    Spelling(
        _TRANSFORMERS, ("vision_model.embeddings.class_embedding", "text_model.embeddings.**")
    ),
    Spelling(_OPEN_CLIP, ("visual.class_embedding", "transformer.resblocks.**")),
    Spelling(
        f"{_OPEN_CLIP}'s CustomTextCLIP",
        ("visual.class_embedding", "text.transformer.resblocks.**"),
    ),
)
