"""Words that were learned (textual inversion, arXiv 2208.01618), beside a model's own.

Files are diffusers' (`learned_embeds`: the word and its embeddings), A1111's (`string_to_param`, or
`emb_params` in safetensors), those of the method's authors (a ParameterDict), a tensor alone, and
those for SDXL, with embeddings for each of its text encoders. As in diffusers, a word of several
embeddings stands for `word word_1 word_2 …`, one token each; and a list of words takes one
embedding each.

Nothing is written into the model: the tokenizer gives a learned word ids that follow the text
encoder's vocabulary, and the embeddings go with the ids as an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tokenizers import AddedToken, Tokenizer

from ipa.arrays import Floats
from ipa.checks import check_plain
from ipa.errors import CheckpointError, RequestError, shown
from ipa.model.folder import ModelFolder
from ipa.model.ignoring import NOTHING, REASON, Ignore
from ipa.model.lora import BUNDLED

from .learned_words import LearnedWords, TextualInversion
from .tokenizer import ClipTokenizer

Words: TypeAlias = "str | Sequence[str | None] | None"
"""One word, one for each file, or one for each embedding of a file; None is the file's own."""


_UNNAMED = {"emb_params", "*"}


# Files for SDXL name the text encoder instead of the word.
_ENCODERS: Mapping[str, int] = {
    "clip_l": 0,
    "clip_g": 1,
    "text_encoders_0": 0,
    "text_encoders_1": 1,
}


_PARTS = (("*", "clip_l"), ("clip_g",))  # of words in a LoRA's file, by text encoder


_BASES: Mapping[tuple[int, ...], str] = {
    (768,): "Stable Diffusion 1.x",
    (1024,): "Stable Diffusion 2.x",
    (768, 1280): "SDXL",
}


def read_inversions(
    paths: Sequence[Path], words: Words, model: ModelFolder
) -> tuple[TextualInversion, ...]:
    """Read learned words from files.

    Args:
        paths: The files; never run.
        words: One word for one file; a list with a word for each of several files; or, of one file,
            a list with a word for each of its embeddings. None takes what the files say.
        model: The model.

    Raises:
        CheckpointError: A file is damaged, or its embeddings do not fit.
        RequestError: A token is no word, or there are not as many as are needed.
    """
    given: list[str | None] = [None] * len(paths) if words is None else _listed(words)
    if len(paths) == 1 and len(given) > 1:
        return _by_rows(paths[0], given, model)
    if len(given) != len(paths):
        raise RequestError(
            "a list of files needs as many words",
            found=f"{len(paths)} files, {len(given)} words",
            remedy="pass token= as a list with one for each file, or None for their own",
        )
    return tuple(read_inversion(p, word, model) for p, word in zip(paths, given, strict=True))


def _by_rows(
    path: Path, words: Sequence[str | None], model: ModelFolder
) -> tuple[TextualInversion, ...]:
    """A word for each embedding of a file."""
    _, whole = _read(path, model)
    rows = len(whole[0])
    if rows != len(words):
        raise RequestError(
            f"{path.name} has another number of embeddings than there are words",
            found=f"{rows} embeddings, {len(words)} words",
            remedy="pass a list with a word for each, or one word for all of them",
        )
    return tuple(
        TextualInversion(
            _checked_word(word), path.name, tuple(vectors[row : row + 1] for vectors in whole)
        )
        for row, word in enumerate(words)
    )


def _checked_word(word: object) -> str:
    if not isinstance(word, str) or not word.strip() or not word.isprintable():
        raise RequestError("a token must be a word", found=shown(word), remedy="pass token=")
    return word.strip()


def _listed(given: str | Sequence[Any]) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple)) else [given]


def read_inversion(path: Path, token: str | None, model: ModelFolder) -> TextualInversion:
    """Read a file's embeddings, checked against the text encoders of a model.

    Args:
        path: The file; never run.
        token: What stands for it in texts; None takes what the file says, or else its name.
        model: The model.

    Raises:
        CheckpointError: The file is damaged, or its embeddings do not fit.
        RequestError: The token is no word.
    """
    name, vectors = _read(path, model)
    return TextualInversion(_checked_word(name if token is None else token), path.name, vectors)


def _read(path: Path, model: ModelFolder) -> tuple[str, tuple[Floats, ...]]:
    """A file's name for its embeddings, or its own; and the embeddings, by text encoder."""
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
    return name, vectors


def bundled_words(
    path: Path, lora: str, model: ModelFolder, ignore: Ignore = NOTHING
) -> tuple[dict[TextualInversion, list[str]], dict[str, str]]:
    """The learned words in the file of a LoRA that this model can use.

    Args:
        path: The file.
        lora: What the LoRA is called.
        model: The model.
        ignore: What is left out though it could be used.

    Returns:
        The words, each with the names of its tensors; and the names of other tensors of words, with
        the reason.

    Raises:
        CheckpointError: They are damaged.
    """
    import ipa_convert

    needed = [spec.width for spec in _specs(model)]
    found: dict[TextualInversion, list[str]] = {}
    left_out: dict[str, str] = {}
    for word, parts in ipa_convert.read_bundled_words(path).items():
        if any(map(ignore.matches, _spelled(word, parts))):
            left_out |= dict.fromkeys(_spelled(word, parts), REASON)
            continue
        used = [next((n for n in names if n in parts), "") for names in _PARTS[: len(needed)]]
        rows = tuple(np.atleast_2d(parts[part]) for part in used if part)
        fits = [values.shape[1] for values in rows] == needed
        if fits and len({len(values) for values in rows}) == 1 and word.strip().isprintable():
            found[TextualInversion(word.strip(), path.name, rows, lora)] = _spelled(word, used)
            why = f"{model.name} has no place for this part of the word {word!r}"
        else:
            used, why = [], f"{word!r} was learned for other text encoders than {model.name} has"
        left_out |= dict.fromkeys(_spelled(word, parts.keys() - set(used)), why)
    return found, left_out


def _spelled(word: str, parts: Iterable[str]) -> list[str]:
    """The keys of a learned word's parts in the file of a LoRA."""
    return [f"{BUNDLED}{word}.{'string_to_param.*' if part == '*' else part}" for part in parts]


def listed_sources(source: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """One source or several, as a list. Raises RequestError for what is none."""
    sources = [source] if isinstance(source, (str, Path)) else source
    good = isinstance(sources, (list, tuple)) and len(sources) > 0
    for one in sources if good else (sources,):
        if isinstance(one, (str, Path, Mapping)):
            check_plain("source", one, (str, Path))
    if not good or not all(isinstance(one, (str, Path)) for one in sources):
        raise RequestError(
            "a learned word is loaded from a file, a folder, or a name on the hub",
            found=shown(source),
            remedy="pass a path or a name, or a list of them",
        )
    return list(sources)


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
        new_ids = tuple(range(following, following + len(inversion.words)))
        numbers = [int(model.token_to_id(word) or 0) for word in inversion.words]
        ids |= {number: (one,) for number, one in zip(numbers, new_ids, strict=True)}
        ids[numbers[0]] = new_ids
        rows.append(inversion.vectors[rank])
        following += len(new_ids)
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
