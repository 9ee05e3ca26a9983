"""The learned words that a pipeline has loaded."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ipa.errors import RequestError, shown
from ipa.model.folder import ModelFolder
from ipa.prepare.text.learned_words import TextualInversion
from ipa.prepare.text.textual_inversion import Words, _listed, _specs, _taught, read_inversions
from ipa.prepare.text.tokenizer import ClipTokenizer


class Inversions:
    """The learned words of a model. Not thread-safe: the pipeline serialises what changes them."""

    def __init__(self, model: ModelFolder, tokenizers: Sequence[ClipTokenizer]) -> None:
        self._model, self._own = model, tuple(tokenizers)
        self._known: dict[str, TextualInversion] = {}
        self.tokenizers = self._own

    def load(self, paths: Sequence[Path], words: Words) -> tuple[str, ...]:
        """Load learned words from files, all or none; see `read_inversions`.

        Raises:
            CheckpointError: A file is damaged, or its embeddings do not fit the text encoders.
            RequestError: A word is one already, or there are not as many as are needed.
        """
        return self.add(read_inversions(paths, words, self._model))

    def add(self, inversions: Iterable[TextualInversion]) -> tuple[str, ...]:
        """Add words that were read, all or none. Raises RequestError for one that is taken."""
        words = dict(self._known)
        added = []
        for inversion in inversions:
            fault = self._fault(inversion, words.values())
            if fault:
                word, found = fault
                raise RequestError(
                    f"{word!r} is a word already",
                    found=found,
                    remedy='pass another token=, such as "<my-word>"; or '
                    "unload_textual_inversion first",
                )
            words[inversion.token] = inversion
            added.append(inversion.token)
        self._set(words)
        return tuple(added)

    def add_bundled(self, inversions: Mapping[TextualInversion, Iterable[str]]) -> dict[str, str]:
        """Add the words that came with a LoRA.

        Returns the names of the tensors of those that are words already, and why.
        """
        left_out: dict[str, str] = {}
        for inversion, names in inversions.items():
            fault = self._fault(inversion, self._known.values())
            if fault:
                why = f"{fault[0]!r} is a word already ({fault[1]})"
                left_out |= dict.fromkeys(names, why)
            else:
                self._set(self._known | {inversion.token: inversion})
        return left_out

    def bundled(self, lora: str) -> tuple[str, ...]:
        """The words that came with a LoRA."""
        return tuple(word for word, inversion in self._known.items() if inversion.lora == lora)

    def forget_bundled(self, loras: Collection[str]) -> None:
        """Remove the words that came with LoRAs."""
        self._set({k: v for k, v in self._known.items() if v.lora not in loras})

    def unload(self, token: str | Sequence[str] | None) -> None:
        """Unload one word, some, or all of them."""
        gone = list(self._known) if token is None else _listed(token)
        for one in gone:
            if not isinstance(one, str) or one not in self._known:
                raise RequestError(
                    "no such word was learned",
                    found=shown(one),
                    remedy=f"loaded: {', '.join(self._known) or 'none'}",
                )
        self._set({k: v for k, v in self._known.items() if k not in gone})

    def describe(self) -> list[dict[str, Any]]:
        """The words for `Pipeline.info`, JSON-able."""
        return [inversion.describe() for inversion in self._known.values()]

    def copy(self) -> Inversions:
        """A copy, whose changes are its own."""
        return copy.copy(self)

    def only(self, words: Collection[str], loras: Collection[str]) -> Inversions:
        """A copy with some of the words, and those that came with some LoRAs."""
        chosen = copy.copy(self)
        kept = {k: v for k, v in self._known.items() if k in words or v.lora in loras}
        if kept.keys() != self._known.keys():
            chosen._set(kept)
        return chosen

    def _set(self, words: Mapping[str, TextualInversion]) -> None:
        self._known = dict(words)
        self.tokenizers = self._teach(words)

    def _teach(self, words: Mapping[str, TextualInversion]) -> tuple[ClipTokenizer, ...]:
        if not words:
            return self._own
        sizes = [spec.vocabulary for spec in _specs(self._model)]
        return tuple(
            _taught(tokenizer, size, tuple(words.values()), rank)
            for rank, (tokenizer, size) in enumerate(zip(self._own, sizes, strict=True))
        )

    def _fault(
        self, inversion: TextualInversion, others: Iterable[TextualInversion]
    ) -> tuple[str, str] | None:
        """Which of a word's tokens is taken, and by what."""
        learned = {word.lower() for other in others for word in other.words}
        for word in inversion.words:
            small = word.lower()  # texts are compared in lower case
            spellings = (word, small, f"{small}</w>")
            if small in learned:
                return word, "it was loaded before"
            if any(
                tokenizer.model.token_to_id(spelling) is not None
                for tokenizer in self._own
                for spelling in spellings
            ):
                return word, "it is in the vocabulary"
        return None
