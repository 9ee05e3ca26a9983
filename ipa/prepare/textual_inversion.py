"""Words that were learned (textual inversion, arXiv 2208.01618), beside a model's own.

Files are diffusers' (`learned_embeds`: the word and its embeddings), A1111's (`string_to_param`, or
`emb_params` in safetensors) and those for SDXL, with embeddings for each of its text encoders. As
in diffusers, a word of several embeddings stands for `word word_1 word_2 …`, one token each.

Nothing is written into the model: the tokenizer gives a learned word ids that follow the text
encoder's vocabulary, and the embeddings go with the ids as an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from ipa.contract.errors import CheckpointError, RequestError, shown
from ipa.contract.model import ModelFolder
from ipa.contract.textual_inversion import Floats, TextualInversion

from .hub import download
from .hub_name import hub_name
from .sources import resolve_file
from .tokenizer import ClipTokenizer
from .tokens import LearnedWords

NAMES = ("learned_embeds.safetensors", "learned_embeds.bin")
"""What diffusers calls such files."""

_UNNAMED = {"emb_params", "*"}
# Files for SDXL name the text encoder instead of the word.
_ENCODERS: Mapping[str, int] = {
    "clip_l": 0,
    "clip_g": 1,
    "text_encoders_0": 0,
    "text_encoders_1": 1,
}
_BASES: Mapping[tuple[int, ...], str] = {
    (768,): "Stable Diffusion 1.x",
    (1024,): "Stable Diffusion 2.x",
    (768, 1280): "SDXL",
}


class Inversions:
    """The learned words of a model. Not thread-safe: the pipeline serialises what changes them."""

    def __init__(self, model: ModelFolder, tokenizers: Sequence[ClipTokenizer]) -> None:
        self._model, self._own = model, tuple(tokenizers)
        self._known: dict[str, TextualInversion] = {}
        self.tokenizers = self._own

    def load(self, path: Path, token: str | None) -> str:
        """Learn the word of a file.

        Raises:
            CheckpointError: The file is damaged, or its embeddings do not fit the text encoders.
            RequestError: The word is one already.
        """
        inversion = read_inversion(path, token, self._model)
        self._check(inversion)
        self._set(self._known | {inversion.token: inversion})
        return inversion.token

    def unload(self, token: str | None) -> None:
        """Forget one word, or all of them."""
        if token is not None and token not in self._known:
            raise RequestError(
                "no such word was learned",
                found=shown(token),
                remedy=f"loaded: {', '.join(self._known) or 'none'}",
            )
        kept = {} if token is None else {k: v for k, v in self._known.items() if k != token}
        self._set(kept)

    def describe(self) -> list[dict[str, Any]]:
        """JSON-able."""
        return [inversion.describe() for inversion in self._known.values()]

    def _set(self, known: Mapping[str, TextualInversion]) -> None:
        self._known = dict(known)
        self.tokenizers = self._own
        if known:
            sizes = [spec.vocabulary for spec in _specs(self._model)]
            self.tokenizers = tuple(
                _taught(tokenizer, size, tuple(known.values()), rank)
                for rank, (tokenizer, size) in enumerate(zip(self._own, sizes, strict=True))
            )

    def _check(self, inversion: TextualInversion) -> None:
        learned = {word.lower() for known in self._known.values() for word in known.words}
        for word in inversion.words:
            small = word.lower()  # texts are compared in lower case
            spellings = (word, small, f"{small}</w>")
            if small in learned or any(
                tokenizer.model.token_to_id(spelling) is not None
                for tokenizer in self._own
                for spelling in spellings
            ):
                raise RequestError(
                    f"{word!r} is a word already",
                    found="it was loaded before" if small in learned else "it is in the vocabulary",
                    remedy='pass another token=, such as "<my-word>"; or '
                    "unload_textual_inversion first",
                )


def read_inversion(path: Path, token: str | None, model: ModelFolder) -> TextualInversion:
    """A file's embeddings, checked against the text encoders of a model.

    Args:
        path: The file; never run.
        token: What stands for it in texts; None takes what the file says, or else its name.
        model: The model.

    Raises:
        CheckpointError: The file is damaged, or its embeddings do not fit.
        RequestError: The token is no word.
    """
    import ipa_convert

    tensors = ipa_convert.read_textual_inversion(path)
    name = path.stem
    if tensors and tensors.keys() <= _ENCODERS.keys():
        ranked = sorted(tensors, key=_ENCODERS.__getitem__)
        vectors = tuple(np.atleast_2d(tensors[key]) for key in ranked)
    elif len(tensors) == 1:
        ((key, rows),) = tensors.items()
        vectors = (np.atleast_2d(rows),)
        name = path.stem if key in _UNNAMED else key
    else:
        raise CheckpointError(
            f"{path} is no file of textual inversion",
            found=f"{len(tensors)} tensors: {', '.join(tensors)}"[:200],
            remedy="it has one, or one for each text encoder (clip_l and clip_g)",
        )
    _check_fit(path, vectors, model)
    word = name if token is None else token
    if not isinstance(word, str) or not word.strip() or not word.isprintable():
        raise RequestError("a token must be a word", found=shown(word), remedy="pass token=")
    return TextualInversion(word.strip(), path.name, vectors)


def find_inversion(
    source: str | Path,
    *,
    weight_name: str | None = None,
    subfolder: str = "",
    revision: str | None = None,
    offline: bool = False,
) -> Path:
    """The file of a textual inversion, found as diffusers finds it.

    Raises:
        CheckpointError: There is none, or the hub cannot be reached.
    """
    hub, prefix = hub_name(source), f"{subfolder}/" if subfolder else ""
    names = [f"{prefix}{name}" for name in ([weight_name] if weight_name else NAMES)]
    if hub is not None and hub.path:
        return resolve_file(source, revision=revision, offline=offline)
    root = Path(source).expanduser()
    if hub is not None:

        def choose(there: Collection[str]) -> Collection[str]:
            return [name for name in names if name in there][:1] or names[:1]

        root = download(hub.repository, choose, markers=names, revision=revision, offline=offline)
    files = [root] if root.is_file() else [root / name for name in names]
    for file in files:
        if file.is_file():
            return file
    raise CheckpointError(
        f"{source}: no file of textual inversion",
        found=f"none called {' or '.join(names)}" if root.is_dir() else "no such file here",
        remedy="check the path, subfolder= and weight_name=",
    )


def _taught(
    tokenizer: ClipTokenizer, size: int, inversions: tuple[TextualInversion, ...], rank: int
) -> ClipTokenizer:
    """A tokenizer that knows the words; `size` is that of the text encoder's vocabulary."""
    model = Tokenizer.from_str(tokenizer.model.to_str())
    ids: dict[int, tuple[int, ...]] = {}
    rows: list[Floats] = []
    following = size
    for inversion in inversions:
        # As transformers' add_tokens has it: found anywhere in the lowered text.
        model.add_tokens([AddedToken(word, normalized=True) for word in inversion.words])
        own = tuple(range(following, following + len(inversion.words)))
        numbers = [int(model.token_to_id(word) or 0) for word in inversion.words]
        ids |= {number: (one,) for number, one in zip(numbers, own, strict=True)}
        ids[numbers[0]] = own
        rows.append(inversion.vectors[rank])
        following += len(own)
    return replace(
        tokenizer, model=model, learned=LearnedWords(ids, np.concatenate(rows), inversions)
    )


def _check_fit(path: Path, vectors: tuple[Floats, ...], model: ModelFolder) -> None:
    needed = tuple(spec.width for spec in _specs(model))
    found = tuple(rows.shape[1] for rows in vectors)
    if found != needed:
        base = _BASES.get(found)
        raise CheckpointError(
            f"{path} was learned for another model than {model.name}",
            found=f"embeddings of width {_said(found)}{f': {base}' if base else ''}",
            remedy=f"its text encoders need {_said(needed)}",
        )
    if len({len(rows) for rows in vectors}) > 1:
        raise CheckpointError(
            f"{path}: the text encoders have different numbers of embeddings",
            found=_said([len(rows) for rows in vectors]),
            remedy="the file is damaged: download it again",
        )


def _specs(model: ModelFolder) -> list[Any]:
    return [spec for spec in (model.text_encoder, model.text_encoder_2) if spec is not None]


def _said(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))
