"""Texts as ids with weights, cut at the text encoder's length or in chunks of it.

A chunk has a start and an end of its own, as A1111, ComfyUI and compel make them (there with
truncate_long_prompts=False): each is encoded alone, and their states stand one after another.
Words may be cut in two at a border: A1111's search for a comma near it, ComfyUI's for the end of a
word and compel's for that of a sentence are not followed. The word BREAK in capitals ends a chunk
where one wants it to, as in A1111. All texts of a call get as many chunks as the longest has, by
chunks of no words, as in compel; or by being repeated, as in ComfyUI (D25 of `profiles`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from ipa.errors import RequestError

from .syntax import Fragment, parse
from .tags import named_words
from .tokenizer import ClipTokenizer, Tokens

_BREAK = re.compile(r"\s*\bBREAK\b\s*")
Weighted = list[tuple[int, float]]


def encode_prompt(tokenizer: ClipTokenizer, text: str, *, syntax: str, long_prompts: str) -> Tokens:
    """The ids and weights of a text by one tokenizer; see `Request` for the two rules.

    Raises:
        RequestError: A weight is no finite number, or BREAK stands where there are no chunks.
    """
    fragments = _fragments(tokenizer, text, syntax)
    if long_prompts == "chunks":
        groups = [_pieces(tokenizer, group) for group in _groups(fragments)]
        room = tokenizer.length - 2
        chunks = [
            group[begin : begin + room]
            for group in groups
            for begin in range(0, max(len(group), 1), room)
        ]
        return _tokens(tokenizer, chunks)
    if syntax == "plain":
        return tokenizer.encode(text)
    if any(_BREAK.search(part.text) for part in fragments):
        raise RequestError(
            "BREAK has no effect on a prompt that is cut",
            found=f'long_prompts="cut", prompt_syntax={syntax!r}',
            remedy='pass long_prompts="chunks", or leave it out',
        )
    return _cut(tokenizer, fragments)


def _fragments(tokenizer: ClipTokenizer, text: str, syntax: str) -> Sequence[Fragment]:
    """The fragments that a syntax reads; ComfyUI's embedding:NAME becomes the learned word."""
    parts = parse(text, syntax)
    if syntax != "comfyui":
        return parts
    words = () if tokenizer.learned is None else tokenizer.learned.inversions
    return [Fragment(named_words(part.text, words), part.weight) for part in parts]


def evened(texts: Sequence[Tokens], tokenizers: Sequence[ClipTokenizer]) -> tuple[Tokens, ...]:
    """Texts with the same number of chunks: empty ones are appended; single chunks stay rows.

    Args:
        texts: What `encode_prompt` gave, each with its tokenizer in `tokenizers`.
        tokenizers: As many.
    """
    count = max((len(np.atleast_2d(text.ids)) for text in texts), default=1)
    if count == 1:
        return tuple(texts)
    return tuple(
        _padded(text, tokenizer, count) for text, tokenizer in zip(texts, tokenizers, strict=True)
    )


def repeated(rows: Sequence[tuple[Tokens, ...]]) -> list[tuple[Tokens, ...]]:
    """Rows of texts with equally many chunks: each text is repeated until all have as many.

    Attention to keys that are all there k times is attention to them once: no picture changes.
    """
    counts = [len(np.atleast_2d(row[0].ids)) if row else 1 for row in rows]
    count = math.lcm(*counts)
    return [
        row if times == count else tuple(_times(text, count // times) for text in row)
        for row, times in zip(rows, counts, strict=True)
    ]


def _times(text: Tokens, count: int) -> Tokens:
    weights = None if text.weights is None else np.tile(np.atleast_2d(text.weights), (count, 1))
    return Tokens(np.tile(np.atleast_2d(text.ids), (count, 1)), text.dropped, weights)


def _padded(text: Tokens, tokenizer: ClipTokenizer, count: int) -> Tokens:
    ids = np.atleast_2d(text.ids)
    rows = [ids, *[tokenizer.row([])[None]] * (count - len(ids))]
    weights = None
    if text.weights is not None:
        weights = np.ones((count, tokenizer.length))
        weights[: len(ids)] = text.weights
    return Tokens(np.concatenate(rows), text.dropped, weights)


def _groups(fragments: Sequence[Fragment]) -> list[list[Fragment]]:
    """The texts between BREAKs; nothing at all behind the last is no group."""
    groups: list[list[Fragment]] = [[]]
    for fragment in fragments:
        first, *others = _BREAK.split(fragment.text)
        groups[-1].append(Fragment(first, fragment.weight))
        groups += [[Fragment(text, fragment.weight)] for text in others]
    if len(groups) > 1 and not any(part.text.strip() for part in groups[-1]):
        groups.pop()
    return groups


def _pieces(tokenizer: ClipTokenizer, fragments: Sequence[Fragment]) -> Weighted:
    return [(n, part.weight) for part in fragments for n, _ in tokenizer.pieces(part.text)]


def _cut(tokenizer: ClipTokenizer, fragments: Sequence[Fragment]) -> Tokens:
    fitting: Weighted = []
    room, dropped = tokenizer.length - 2, ""
    for rank, part in enumerate(fragments):
        pieces, left = tokenizer.pieces(part.text), room - len(fitting)
        fitting += [(number, part.weight) for number, _ in pieces[:left]]
        if len(pieces) > left:
            rest = "".join(later.text for later in fragments[rank + 1 :])
            dropped = part.text[pieces[left][1] :] + rest
            break
    tokens = _tokens(tokenizer, [fitting])
    return Tokens(tokens.ids, dropped.strip(), tokens.weights)


def _tokens(tokenizer: ClipTokenizer, chunks: Sequence[Weighted]) -> Tokens:
    ids = np.stack([tokenizer.row([number for number, _ in chunk]) for chunk in chunks])
    weights = np.ones(ids.shape)
    for row, chunk in zip(weights, chunks, strict=True):
        row[1 : len(chunk) + 1] = [weight for _, weight in chunk]
    some = None if (weights == 1.0).all() else weights
    if len(chunks) == 1:
        return Tokens(ids[0], "", None if some is None else some[0])
    return Tokens(ids, "", some)
