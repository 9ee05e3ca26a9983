"""A text as ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ipa.contract.textual_inversion import TextualInversion


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text as the text tower takes it.

    Attributes:
        ids: int32 (77,): start, text, end, padding; of a text in chunks (chunks, 77).
        dropped: The text that did not fit, "" if all of it did.
        weights: float64 in the shape of `ids`; None is 1 for all.
    """

    ids: npt.NDArray[np.int32]
    dropped: str
    weights: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LearnedWords:
    """Words whose embeddings are not of the model, by one of its tokenizers.

    Attributes:
        ids: For a tokenizer's id of such a word, the ids of its embeddings: one or several.
        vectors: The embeddings, (V, D): row r is that of the id that follows
            the text encoder's vocabulary by r.
        inversions: What was learned, for all text encoders.
    """

    ids: Mapping[int, tuple[int, ...]]
    vectors: npt.NDArray[np.float32]
    inversions: tuple[TextualInversion, ...]


def expanded(
    pieces: Iterable[tuple[int, int]], series: Mapping[int, tuple[int, ...]]
) -> Iterator[tuple[int, int]]:
    """(id, place in the text), with all ids of a series in place of the one that stands for it."""
    for number, place in pieces:
        for own in series.get(number, (number,)):
            yield own, place
