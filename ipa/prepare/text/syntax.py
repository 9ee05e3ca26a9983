"""Parentheses as weights: a text becomes fragments with a weight each.

"plain": parentheses are characters, as in diffusers.

"a1111" (modules/prompt_parser.py, parse_prompt_attention): `(x)` is 1.1, `[x]` is 1/1.1, `(x:1.3)`
is 1.3; nested ones are multiplied; a backslash makes the next parenthesis a character. It is
lenient: what is never closed is closed at the end of the text, and what was never opened is a
character. `<kind:arguments>` is taken out first.

"comfyui" (comfy/sd1_clip.py, token_weights): `(x)` is 1.1 times what is around it, `(x:1.3)` is 1.3
whatever is around it; brackets are characters, and so is what is never closed.

What else there is in such texts (`<lora:name:1>`, `[a:b:0.5]`, AND, `embedding:NAME`) says
`prompt_tags`; what weights do to states, `prompt_weights`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ipa.errors import RequestError, shown

from .tags import without_tags

_STEP = 1.1
_FACTORS: Mapping[str, float] = {"(": _STEP, "[": 1 / _STEP}
_OPENED_BY: Mapping[str, str] = {")": "(", "]": "["}
_A1111 = re.compile(
    r"\\[()\[\]\\]|\\|[(\[]"
    r"|:\s*(?P<weight>[+-]?(?:[.\d]+|(?i:nan|inf|infinity)))\s*\)"
    r"|[)\]]|[^\\()\[\]:]+|:"
)
# ComfyUI hides escaped parentheses behind characters that no text has.
_HIDDEN: Mapping[str, str] = {r"\)": "\0\1", r"\(": "\0\2"}
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a text, and the weight of its words."""

    text: str
    weight: float = 1.0


def parse(text: str, syntax: str) -> tuple[Fragment, ...]:
    """The fragments of a text, at least one; neighbours differ in weight.

    Args:
        text: What a person wrote.
        syntax: One of `ipa.request.request.PROMPT_SYNTAXES`.

    Raises:
        RequestError: A weight is no finite number, or parentheses lie too deep.
    """
    parts = _joined(_SYNTAXES[syntax](text)) or (Fragment(""),)
    for part in parts:
        _finite(part.weight, part.text)
    return parts


def _plain(text: str) -> Iterator[Fragment]:
    yield Fragment(text)


def _a1111(text: str) -> list[Fragment]:
    found: list[Fragment] = []
    opened: dict[str, list[int]] = {mark: [] for mark in _FACTORS}

    def weigh(start: int, factor: float) -> None:
        found[start:] = [Fragment(part.text, part.weight * factor) for part in found[start:]]

    for match in _A1111.finditer(without_tags(text)):
        mark, weight = match[0], match["weight"]
        opener = _OPENED_BY.get(mark, "")
        if mark in opened:
            opened[mark].append(len(found))
        elif weight is not None and opened["("]:
            weigh(opened["("].pop(), _number(weight))
        elif opened.get(opener):
            weigh(opened[opener].pop(), _FACTORS[opener])
        else:
            found.append(Fragment(mark[1:] if mark[0] == "\\" else mark))
    for opener, starts in opened.items():
        for start in starts:
            weigh(start, _FACTORS[opener])
    return found


def _comfyui(text: str) -> Iterator[Fragment]:
    for escaped, hidden in _HIDDEN.items():
        text = text.replace(escaped, hidden)
    for part in _nested(text, 1.0, 0):
        shown = part.text
        for escaped, hidden in _HIDDEN.items():
            shown = shown.replace(hidden, escaped[1])
        yield Fragment(shown, part.weight)


def _nested(text: str, weight: float, depth: int) -> Iterator[Fragment]:
    if depth > _MAX_DEPTH:
        raise RequestError("parentheses of a prompt lie too deep", found=f"over {_MAX_DEPTH}")
    for part in _sections(text):
        if len(part) < 2 or (part[0], part[-1]) != ("(", ")"):
            yield Fragment(part, weight)
            continue
        inner, inner_weight = part[1:-1], weight * _STEP
        head, colon, tail = inner.rpartition(":")
        if colon and head and (number := _float(tail)) is not None:
            inner, inner_weight = head, _finite(number, tail)
        yield from _nested(inner, inner_weight, depth + 1)


def _sections(text: str) -> Iterator[str]:
    """The text outside of parentheses, and each outermost pair with what is in it."""
    begin = depth = 0
    for place, character in enumerate(text):
        if character == "(":
            if depth == 0 and place > begin:
                yield text[begin:place]
                begin = place
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                yield text[begin : place + 1]
                begin = place + 1
    if begin < len(text):
        yield text[begin:]


def _number(text: str) -> float:
    value = _float(text)
    return _finite(math.nan if value is None else value, text)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _finite(value: float, text: str) -> float:
    if not math.isfinite(value):
        raise RequestError(
            "a weight in a prompt must be a finite number",
            found=shown(text),
            remedy='write (word:1.3), or pass prompt_syntax="plain"',
        )
    return value


def _joined(parts: Iterable[Fragment]) -> tuple[Fragment, ...]:
    """Fragments without empty ones, neighbours of one weight joined."""
    result: list[Fragment] = []
    for part in parts:
        if result and part.text and result[-1].weight == part.weight:
            result[-1] = Fragment(result[-1].text + part.text, part.weight)
        elif part.text:
            result.append(part)
    return tuple(result)


_SYNTAXES: Mapping[str, Callable[[str], Iterable[Fragment]]] = {
    "plain": _plain,
    "a1111": _a1111,
    "comfyui": _comfyui,
}
