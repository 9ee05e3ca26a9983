"""Warnings about syntax in a prompt that has no effect here.

A1111's prompt editing `[a:b:0.5]`, its alternation `[a|b]` and its AND (modules/prompt_parser.py)
need several texts in a run, which there are not here. Nothing of the kind is read as words in
silence, nor what one tool would read and the syntax at hand does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from ipa.request.request import Request

from .learned_words import TextualInversion
from .syntax import parse
from .tags import EMBEDDING, LORA_KINDS, TAG, TEXTS, find_word, without_tags

_NEGATIVE = ("negative_prompt", "negative_prompt_2")
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*")
_AND = re.compile(r"\bAND\b")
_COMMENT = re.compile(r"#[^\n]*")
_MENTION = re.compile(r"\bembedding:[^\s,()\[\]]+")
_SHOWN = 60


def syntax_warnings(request: Request, inversions: Sequence[TextualInversion]) -> list[str]:
    """Warnings about syntax in a request's texts that their author may mean otherwise."""
    warnings: dict[str, None] = {}
    for field in (*TEXTS, *_NEGATIVE):
        text = getattr(request, field)
        for found, why in _notes(text or "", request.prompt_syntax, field, inversions):
            shown = found if len(found) <= _SHOWN else f"{found[:_SHOWN]}…"
            warnings[f"{field}: {shown!r} {why}"] = None
    return list(warnings)


def _notes(
    text: str, syntax: str, field: str, inversions: Sequence[TextualInversion]
) -> Iterator[tuple[str, str]]:
    """Syntax that was found in one text, and what to say of it."""
    if syntax == "a1111":
        yield from _foreign_tags(text, field)
        text = without_tags(text)
        for find, why in _A1111.items():
            yield from ((found, why) for found in find(text))
        return
    for match in TAG.finditer(text):
        if match[1] in (*LORA_KINDS, "hypernet"):
            yield match[0], 'is read as words; prompt_syntax="a1111" takes it for a LoRA'
    if syntax != "comfyui":
        why = 'is read as words; prompt_syntax="comfyui" takes it for a learned word'
        yield from ((found[0], why) for found in _MENTION.finditer(text))
        return
    loaded = ", ".join(inversion.token for inversion in inversions) or "none"
    for part in parse(text, syntax):
        for match in EMBEDDING.finditer(part.text):
            if find_word(match[1], inversions)[0] is None:
                yield match[0], f"was left out: there is no such learned word (loaded: {loaded})"
        for match in _MENTION.finditer(EMBEDDING.sub("", part.text)):
            yield match[0], "is read as words, as in ComfyUI: a space must stand before it"


def _foreign_tags(text: str, field: str) -> Iterator[tuple[str, str]]:
    """Tags that are taken out of a text and have no effect."""
    for match in TAG.finditer(text):
        if field in _NEGATIVE:
            yield match[0], "was left out: a negative prompt applies no network"
        elif match[1] not in LORA_KINDS:
            weight = match[2].rpartition(":")[2]
            if not (_NUMBER.fullmatch(weight) and float(weight) == 0.0):
                yield match[0], "was left out: only <lora:…> and <lyco:…> are known"


def _edits(text: str) -> Iterator[str]:
    """Brackets that A1111 reads as prompt editing."""
    for whole, parts, marks in _brackets(text):
        if ":" in marks and "|" not in marks and len(parts) <= 3 and _NUMBER.fullmatch(parts[-1]):
            yield whole


def _alternations(text: str) -> Iterator[str]:
    yield from (whole for whole, _, marks in _brackets(text) if "|" in marks)


def _brackets(text: str) -> Iterator[tuple[str, list[str], set[str]]]:
    """Each pair of square brackets: the whole of it, its parts, and the marks between them."""
    opened: list[tuple[str, int, list[int]]] = []
    place = 0
    while place < len(text):
        mark = text[place]
        if mark == "\\":
            place += 1
        elif mark in "[(":
            opened.append((mark, place, []))
        elif mark in ":|" and opened:
            opened[-1][2].append(place)
        elif mark in "])" and opened:
            opener, begin, cuts = opened.pop()
            if (opener, mark) == ("[", "]") and cuts:
                ends = [begin, *cuts, place]
                parts = [text[a + 1 : b] for a, b in pairwise(ends)]
                yield text[begin : place + 1], parts, {text[cut] for cut in cuts}
        place += 1


def _found(pattern: re.Pattern[str]) -> Callable[[str], Iterable[str]]:
    return lambda text: [match[0] for match in pattern.finditer(text)]


_A1111: Mapping[Callable[[str], Iterable[str]], str] = {
    _found(_AND): "is read as a word: several prompts joined by AND (composable diffusion) are not "
    "supported",
    _edits: "is read as words of less weight: prompt editing is not supported",
    _alternations: "is read as words of less weight: alternating words are not supported",
    _found(_MENTION): "is read as words, as in A1111: write the learned word alone, or pass "
    'prompt_syntax="comfyui"',
    _found(_COMMENT): "is read as words: a comment in A1111 from 1.8 on",
}
