"""CLIP's tokenizer: text to 77 ids, from vocab.json and merges.txt.

Source: transformers 5's `CLIPTokenizer` (tokenization_clip.py) and how `from_pretrained` reads
special tokens (tokenization_utils_base.py), rebuilt on the `tokenizers` library alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ipa.contract.errors import CheckpointError, RequestError, shown
from ipa.contract.files import read_json

from .tokens import LearnedWords, Tokens

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
_TOKEN_FIELDS = ("lstrip", "rstrip", "single_word", "normalized")


@dataclass(frozen=True, slots=True)
class ClipTokenizer:
    """Text to ids. `start`, `end` and `pad` are ids; `length` is that of every result.

    `learned` are words whose embeddings are given beside the model (`prepare.textual_inversion`).
    """

    start: int
    end: int
    pad: int
    length: int
    model: Tokenizer = field(repr=False)
    learned: LearnedWords | None = None

    @classmethod
    def from_folder(cls, folder: Path, words: Path | None = None) -> ClipTokenizer:
        """Read a `tokenizer/` folder.

        Args:
            folder: The folder.
            words: Where vocab.json and merges.txt lie, if not in it.

        Raises:
            CheckpointError: vocab.json or merges.txt is missing or damaged, or the configuration
                asks for something that is not implemented.
        """
        folder = Path(folder)
        words = words or folder
        vocabulary = _read_vocabulary(words / "vocab.json")
        merges = _read_merges(words / "merges.txt", vocabulary)
        config = _optional(folder / "tokenizer_config.json")
        for key in ("padding_side", "truncation_side"):
            if config.get(key, "right") != "right":
                raise CheckpointError(
                    f"{folder}/tokenizer_config.json: {key} is not supported",
                    found=shown(config[key]),
                    remedy='only "right" is implemented',
                )
        special, added = _special_tokens(folder, config)
        model = _build(vocabulary, merges, special["unk_token"], added)
        for key in _DEFAULT_TOKENS:
            if special[key] not in vocabulary:
                raise CheckpointError(
                    f"{folder}: {key} is not in the vocabulary", found=shown(special[key])
                )
        start, end, pad = (
            vocabulary[special[key]] for key in ("bos_token", "eos_token", "pad_token")
        )
        return cls(start, end, pad, _length(config, folder), model)

    def encode(self, text: str) -> Tokens:
        """Ids of a text; what does not fit is cut, the end token kept."""
        pieces, room = self.pieces(text), self.length - 2
        dropped = text[pieces[room][1] :] if len(pieces) > room else ""
        return Tokens(self.row([number for number, _ in pieces[:room]]), dropped.strip())

    def pieces(self, text: str) -> list[tuple[int, int]]:
        """The ids of a text without start and end, each with its place in the text."""
        encoding = self.model.encode(_checked(text), add_special_tokens=False)
        pieces = zip(encoding.ids, (start for start, _ in encoding.offsets), strict=True)
        return list(pieces if self.learned is None else self.learned.expand(pieces))

    def row(self, ids: Sequence[int]) -> npt.NDArray[np.int32]:
        """(length,): start, ids, end, padding."""
        padded = np.full(self.length, self.pad, np.int32)
        padded[: len(ids) + 2] = [self.start, *ids, self.end]
        return padded

    def count(self, text: str) -> int:
        """How many tokens a text has, start and end not counted."""
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


def _special_tokens(
    folder: Path, config: Mapping[str, Any]
) -> tuple[dict[str, str], list[AddedToken]]:
    """The named special tokens, and all added tokens in the order of registration.

    tokenizer_config.json's `added_tokens_decoder` decides where it exists; without it, the older
    special_tokens_map.json and added_tokens.json do.
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
            known = token in special
            decoder[_token_number(number, where)] = AddedToken(
                token, normalized=not known, special=known
            )
    contents = {k: _content(named[k], where) for k in _SPECIAL_KEYS if k in named}
    return contents, list(_registered(decoder, named, where))


def _registered(
    decoder: Mapping[int, AddedToken], named: Mapping[str, Any], where: str
) -> Iterator[AddedToken]:
    """Every added token in transformers' order, where a later one overrides an earlier one's rules.

    A named token that is known already is passed over, but transformers does not see that a plain
    string and a dict are the same token, and registers both.
    """
    for _, token in sorted(decoder.items()):
        yield token
    known = {token.content for token in decoder.values()}
    seen: set[tuple[bool, str]] = set()
    for value in (named[k] for k in _SPECIAL_KEYS if k in named):
        token = _added_token(value, where)
        mark = (isinstance(value, Mapping), token.content)
        if token.content not in known and mark not in seen:
            seen.add(mark)
            yield token


def _named(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: config[k] for k in _SPECIAL_KEYS if config.get(k) is not None}


def _marked(value: object) -> object:
    """A token of special_tokens_map.json is special, whatever it says of itself."""
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


def _read_vocabulary(path: Path) -> dict[str, int]:
    vocabulary = read_json(path)
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
    merges: list[tuple[str, str]] = []
    for number, raw in enumerate(lines, 1):
        line = raw.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or any(p not in vocabulary for p in (*pair, "".join(pair))):
            raise CheckpointError(
                f"{path}: line {number} does not fit vocab.json",
                found=repr(line[:80]),
                remedy="download both files again",
            )
        merges.append((pair[0], pair[1]))
    return merges
