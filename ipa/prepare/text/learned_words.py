"""Learned words (textual inversion): embeddings beside the model's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.arrays import Floats


@dataclass(frozen=True, slots=True, eq=False)
class TextualInversion:
    """A learned word: its token and its embeddings for each text encoder.

    Attributes:
        token: The word that stands for it in texts.
        file: The name of its file.
        vectors: For each text encoder of the model (N, D): N embeddings, in order.
        lora: The name of the LoRA in whose file it lies; None of a word of its own.
    """

    token: str
    file: str
    vectors: tuple[Floats, ...]
    lora: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The tokens of its embeddings, as in diffusers: token, token_1, …"""
        return (self.token, *(f"{self.token}_{n}" for n in range(1, len(self.vectors[0]))))

    def describe(self) -> dict[str, Any]:
        """The word, JSON-able; the hash is of its float32 values, by encoder."""
        digest = hashlib.sha256()
        for rows in self.vectors:
            digest.update(np.ascontiguousarray(rows, "<f4").tobytes())
        return {
            "token": self.token,
            "file": self.file,
            "vectors": len(self.vectors[0]),
            "sha256": digest.hexdigest(),
            **({} if self.lora is None else {"lora": self.lora}),
        }


@dataclass(frozen=True, slots=True, eq=False)
class LearnedWords:
    """The learned words of one tokenizer, with the embeddings of their ids.

    Attributes:
        ids: For a tokenizer's id of such a word, the ids of its embeddings: one or several.
        vectors: The embeddings, (V, D): row r is that of the id that follows
            the text encoder's vocabulary by r.
        inversions: What was learned, for all text encoders.
    """

    ids: Mapping[int, tuple[int, ...]]
    vectors: npt.NDArray[np.float32]
    inversions: tuple[TextualInversion, ...]
