"""CLIP's tokenizer, exact to transformers', and the windows of tokens that it makes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ipa.errors import CheckpointError, RequestError, shown
from ipa.model.files import read_json

from .learned_words import LearnedWords


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a text as the text encoder takes them.

    Attributes:
        ids: int32 (77,): start, text, end, padding; of a text in chunks (chunks, 77).
        dropped: The text that did not fit, "" if all of it did.
        weights: float64 in the shape of `ids`; None is 1 for all.
    """

    ids: npt.NDArray[np.int32]
    dropped: str
    weights: npt.NDArray[np.float64] | None = None


def expanded(
    pieces: Iterable[tuple[int, int]], series: Mapping[int, tuple[int, ...]]
) -> Iterator[tuple[int, int]]:
    """(id, place in the text), with all ids of a series in place of the one that stands for it."""
    for number, place in pieces:
        for token in series.get(number, (number,)):
            yield token, place


_SERIALIZED = "tokenizer.json"  # all that newer versions of transformers write


_END_OF_WORD = "</w>"


_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


_DEFAULT_TOKENS: Mapping[str, str] = {
    "unk_token": "<|endoftext|>",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


# The order in which transformers registers them.
_SPECIAL_KEYS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


_DEFAULT_LENGTH = 77


_MAX_LENGTH = 4096  # transformers writes 1e30 for "no limit"


_EXTRA_KEYS = ("extra_special_tokens", "additional_special_tokens")  # the second is the older


_SIDES = {"padding_side": "padding", "truncation_side": "truncation"}


_TOKEN_FIELDS = ("lstrip", "rstrip", "single_word", "normalized")


@dataclass(frozen=True, slots=True)
class ClipTokenizer:
    """CLIP's tokenizer. `start`, `end` and `pad` are ids; `length` is that of every result.

    `embeddings` is how many ids the text encoder knows; None: it is not said.
    `series` are the ids of an added token that stands for several, as a model has them that was
    saved with learned words in it. `learned` are words whose embeddings are given beside the model
    (`prepare.textual_inversion`).
    """

    start: int
    end: int
    pad: int
    length: int
    model: Tokenizer = field(repr=False)
    series: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    learned: LearnedWords | None = None
    embeddings: int | None = None

    @classmethod
    def from_folder(cls, folder: Path, words: Path | None = None) -> ClipTokenizer:
        """Read a `tokenizer/` folder.

        Args:
            folder: The folder.
            words: Where the vocabulary lies, if not in it.

        Raises:
            CheckpointError: The vocabulary is missing or damaged, or the configuration asks for
                something that is not implemented.
        """
        folder = Path(folder)
        words = folder if words is None or has_words(folder) else words
        serialized = _optional(words / _SERIALIZED)
        vocabulary, merges = _words(words, serialized)
        config = _optional(folder / "tokenizer_config.json")
        _check_sides(folder, config, serialized)
        special, added = _special_tokens(folder, config, serialized if words == folder else {})
        model = _build(vocabulary, merges, special["unk_token"], added)
        for key in _DEFAULT_TOKENS:
            if special[key] not in vocabulary:
                raise CheckpointError(
                    f"{folder}: {key} is not in the vocabulary", found=shown(special[key])
                )
        start, end, pad = (
            vocabulary[special[key]] for key in ("bos_token", "eos_token", "pad_token")
        )
        return cls(start, end, pad, _length(config, folder), model, _series(model, added))

    def encode(self, text: str) -> Tokens:
        """The ids of a text; what does not fit is cut, the end token kept."""
        pieces, room = self.pieces(text), self.length - 2
        dropped = text[pieces[room][1] :] if len(pieces) > room else ""
        return Tokens(self.row([number for number, _ in pieces[:room]]), dropped.strip())

    def pieces(self, text: str) -> list[tuple[int, int]]:
        """The ids of a text without start and end, each with its place in the text."""
        encoding = self.model.encode(_checked(text), add_special_tokens=False)
        starts = (start for start, _ in encoding.offsets)
        pieces = list(expanded(zip(encoding.ids, starts, strict=True), self.series))
        learned = {} if self.learned is None else self.learned.ids
        for number, place in pieces:
            if self.embeddings is not None and number >= self.embeddings and number not in learned:
                raise RequestError(
                    "a word of the prompt has no embedding in the text encoder",
                    found=f"{text[place : place + 40].strip()!r}, id {number} of {self.embeddings}",
                    remedy="its tokenizer was taught it, its text encoder was not: leave it out, "
                    "or load_textual_inversion under another token",
                )
        return list(expanded(pieces, learned))

    def row(self, ids: Sequence[int]) -> npt.NDArray[np.int32]:
        """The ids as one row (length,): start, ids, end, padding."""
        padded = np.full(self.length, self.pad, np.int32)
        padded[: len(ids) + 2] = [self.start, *ids, self.end]
        return padded

    def count(self, text: str) -> int:
        """The number of a text's tokens, without start and end."""
        return len(self.pieces(text))


def _checked(text: str) -> str:
    if not isinstance(text, str):
        raise RequestError("a prompt must be a string", found=type(text).__name__)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            "a prompt holds half of a character (a lone surrogate)",
            found=f"position {error.start}",
        ) from error
    return text


def _build(
    vocabulary: dict[str, int],
    merges: list[tuple[str, str]],
    unknown: str,
    added: list[AddedToken],
) -> Tokenizer:
    model = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix=_END_OF_WORD,
            fuse_unk=False,
            unk_token=unknown,
        )
    )
    model.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    model.add_tokens(added)
    return model


def has_words(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's vocabulary, in either form."""
    return any((folder / name).is_file() for name in (_SERIALIZED, "vocab.json"))


def _words(
    folder: Path, serialized: Mapping[str, Any]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges; tokenizer.json decides where both forms lie side by side."""
    if not serialized:
        if not has_words(folder):
            raise CheckpointError(
                f"{folder} holds no tokenizer",
                found=", ".join(sorted(p.name for p in folder.glob("*"))) or "nothing",
                remedy=f"{_SERIALIZED}, or vocab.json and merges.txt, is needed: check the path, "
                "or finish the download",
            )
        path = folder / "vocab.json"
        vocabulary = _vocabulary(read_json(path), path)
        return vocabulary, _read_merges(folder / "merges.txt", vocabulary)
    path, model = folder / _SERIALIZED, serialized.get("model")
    if not isinstance(model, Mapping) or model.get("type", "BPE") != "BPE":
        found = model.get("type") if isinstance(model, Mapping) else model
        raise CheckpointError(
            f"{path} is no tokenizer of CLIP's kind",
            found=f"model {found!r:.80}",
            remedy="byte-pair encoding (BPE) is needed: take the tokenizer of the same model",
        )
    vocabulary = _vocabulary(model.get("vocab"), path)
    pairs = model.get("merges")
    if not isinstance(pairs, list):
        raise CheckpointError(f"{path} holds no merges", found=type(pairs).__name__)
    split = [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]
    return vocabulary, _merges(enumerate(split, 1), vocabulary, f"{path}: merge")


def _check_sides(folder: Path, config: Mapping[str, Any], serialized: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless texts are cut and padded at their right end."""
    for key, part in _SIDES.items():
        side = serialized.get(part)
        direction = (
            str(side.get("direction", "right")).lower() if isinstance(side, Mapping) else "right"
        )
        if config.get(key, direction) != "right":
            raise CheckpointError(
                f"{folder}/tokenizer_config.json: {key} is not supported",
                found=shown(config.get(key, direction)),
                remedy='only "right" is implemented',
            )


def _series(model: Tokenizer, added: Sequence[AddedToken]) -> dict[int, tuple[int, ...]]:
    """The words <word>_1, <word>_2, … that follow a <word>: diffusers puts them all in a text."""
    ids = {token.content: int(model.token_to_id(token.content) or 0) for token in added}
    found: dict[int, tuple[int, ...]] = {}
    for word, number in ids.items():
        rest = itertools.takewhile(ids.__contains__, (f"{word}_{n}" for n in itertools.count(1)))
        if more := tuple(ids[name] for name in rest):
            found[number] = (number, *more)
    return found


def _special_tokens(
    folder: Path, config: Mapping[str, Any], serialized: Mapping[str, Any]
) -> tuple[dict[str, str], list[AddedToken]]:
    """The named special tokens, and all added tokens in the order of registration.

    tokenizer_config.json's `added_tokens_decoder` decides where it exists; without it, the older
    special_tokens_map.json and added_tokens.json do, then tokenizer.json.
    """
    where = f"{folder}/tokenizer_config.json"
    named = dict(_DEFAULT_TOKENS) | _named(config)
    decoder: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        for number, value in _mapping(config["added_tokens_decoder"], where).items():
            decoder[_token_number(number, where)] = _added_token(value, where)
    else:
        older = _optional(folder / "special_tokens_map.json")
        named |= _named({k: _marked(v) for k, v in older.items()})
        special = {_content(v, where) for v in named.values()}
        for token, number in _optional(folder / "added_tokens.json").items():
            is_known = token in special
            decoder[_token_number(number, where)] = AddedToken(
                token, normalized=not is_known, special=is_known
            )
        listed = serialized.get("added_tokens") or []
        for value in listed if isinstance(listed, list) else [listed]:
            number = value.get("id") if isinstance(value, Mapping) else value
            decoder[_token_number(number, str(folder / _SERIALIZED))] = _added_token(value, where)
    named |= _extra_tokens(config, where)
    contents = {k: _content(named[k], where) for k in _SPECIAL_KEYS if k in named}
    return contents, list(_registered(decoder, named, where))


def _extra_tokens(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The special tokens that have no name of their own."""
    extra: object = next((config[key] for key in _EXTRA_KEYS if config.get(key)), [])
    if not isinstance(extra, (list, Mapping)):
        raise CheckpointError(f"{where}: extra_special_tokens must be a list", found=repr(extra))
    values = extra.values() if isinstance(extra, Mapping) else extra
    return {f"{_EXTRA_KEYS[0]}[{rank}]": value for rank, value in enumerate(values)}


def _registered(
    decoder: Mapping[int, AddedToken], named: Mapping[str, Any], where: str
) -> Iterator[AddedToken]:
    """Every added token in transformers' order, where a later one overrides an earlier one's rules.

    A named token that is known already is passed over, but transformers does not see that a plain
    string and a dict are the same token, and registers both.
    """
    for _, token in sorted(decoder.items()):
        yield token
    contents = {token.content for token in decoder.values()}
    seen: set[tuple[bool, str]] = set()
    extra = [key for key in named if key not in _SPECIAL_KEYS]
    for value in (named[k] for k in (*_SPECIAL_KEYS, *extra) if k in named):
        token = _added_token(value, where)
        mark = (isinstance(value, Mapping), token.content)
        if token.content not in contents and mark not in seen:
            seen.add(mark)
            yield token


def _named(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: config[k] for k in _SPECIAL_KEYS if config.get(k) is not None}


def _marked(value: object) -> object:
    """A token of special_tokens_map.json, which is special whatever it says of itself."""
    return {**value, "special": True} if isinstance(value, Mapping) else value


def _content(value: object, where: str) -> str:
    content = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(content, str) or not content:
        raise CheckpointError(f"{where}: a special token must be text", found=shown(value))
    return content


def _added_token(value: object, where: str) -> AddedToken:
    """A token from a string, or from transformers' dict with its matching rules."""
    content = _content(value, where)
    if not isinstance(value, Mapping):
        return AddedToken(content, special=True)
    rules = {k: bool(value[k]) for k in _TOKEN_FIELDS if k in value}
    return AddedToken(content, special=bool(value.get("special", False)), **rules)


def _mapping(value: object, where: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where}: added_tokens_decoder must be an object")
    return value


def _token_number(value: object, where: str) -> int:
    if not str(value).isdecimal():
        raise CheckpointError(f"{where}: a token's id must be a number", found=shown(value))
    return int(str(value))


def _length(config: Mapping[str, Any], folder: Path) -> int:
    value = config.get("model_max_length", _DEFAULT_LENGTH)
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value < 3 or value != int(value):
        raise CheckpointError(
            f"{folder}/tokenizer_config.json: model_max_length must be an integer from 3",
            found=shown(value),
        )
    return int(value) if value <= _MAX_LENGTH else _DEFAULT_LENGTH


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _vocabulary(value: object, path: Path) -> dict[str, int]:
    vocabulary = value if isinstance(value, dict) else {}
    numbers = list(vocabulary.values())
    good = all(type(n) is int and 0 <= n < 1 << 31 for n in numbers)
    if not numbers or not good or len(set(numbers)) != len(numbers):
        raise CheckpointError(
            f"{path} must map tokens to ids, each id once",
            found=f"{len(numbers)} entries",
            remedy="download it again",
        )
    return vocabulary


def _read_merges(path: Path, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist", remedy="check the path, or finish the download"
        )
    try:
        lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not text", found=str(error)) from error
    pairs = (
        (number, line.split(" "))
        for number, raw in enumerate(lines, 1)
        if (line := raw.removesuffix("\r")) and not line.startswith("#version")
    )
    return _merges(pairs, vocabulary, f"{path}: line")


def _merges(
    pairs: Iterable[tuple[int, object]], vocabulary: Mapping[str, int], where: str
) -> list[tuple[str, str]]:
    """Merges: each a pair of words of the vocabulary that makes another, with its number."""
    merges: list[tuple[str, str]] = []
    for number, pair in pairs:
        parts = pair if isinstance(pair, (list, tuple)) else ()
        first, second = parts if len(parts) == 2 else (None, None)
        if (
            not isinstance(first, str)
            or not isinstance(second, str)
            or first not in vocabulary
            or second not in vocabulary
            or first + second not in vocabulary
        ):
            raise CheckpointError(
                f"{where} {number} does not fit the vocabulary",
                found=repr(pair)[:80],
                remedy="download the tokenizer's files again",
            )
        merges.append((first, second))
    return merges
