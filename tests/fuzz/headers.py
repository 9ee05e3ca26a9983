"""Mutants of safetensors files: the header changed as text and as JSON, lengths put right again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from math import prod
from random import Random
from typing import Any

from fuzz import names
from fuzz.numbers import edge
from oracle.containers import container

SIZES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
_DTYPES = (*SIZES, "F4", "f32", "", None, 4, ["F32"], "\ud800", "x" * 5000)
_NUMBER = re.compile(rb"-?\d+")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_SNIPPETS = (
    b"NaN",
    b"-Infinity",
    b"1e5",
    b"1.0",
    b"-0",
    b"true",
    b"null",
    b"{}",
    b"[]",
    b'""',
    b'"\\ud800"',
    b"9" * 4300,
    b"[" * 900 + b"]" * 900,
    b'{"a":' * 900 + b"1" + b"}" * 900,
    b"[[],[]]",
    b"\xff",
    b"\xef\xbb\xbf",
    b"}{",
    b" ",
)
_BODY = 1 << 15  # bytes at most, so that mutants stay small
Fields = dict[str, Any]


def parts(data: bytes) -> tuple[bytes, bytes]:
    """Header and body as the length says."""
    length = int.from_bytes(data[:8], "little")
    return data[8 : 8 + length], data[8 + length :]


def edit(data: bytes, draw: Random) -> bytes:
    """Another safetensors file."""
    text, body = parts(data)
    if draw.random() < 0.35:
        return _closed(_edited_text(text, draw), body, draw)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or draw.random() < 0.1:
        fields = drawn(draw)
    for _ in range(draw.choice((1, 1, 2, 4))):
        draw.choice(_EDITS)(fields, draw)
    if draw.random() < 0.7:
        body = tiled(fields, draw)
    return _closed(json.dumps(fields).encode(), body, draw)


def drawn(draw: Random) -> Fields:
    """Entries of a kind that is known, or of any names."""
    shapes = dict(draw.choice(tuple(names.KNOWN.values())))
    if draw.random() < 0.3:
        shapes = {names.name(draw): names.shape(draw) for _ in range(draw.randrange(5))}
    kinds = tuple(SIZES) if draw.random() < 0.3 else ("F32", "F16", "BF16")
    return {
        name: {"dtype": draw.choice(kinds), "shape": list(shape), "data_offsets": [0, 0]}
        for name, shape in shapes.items()
    }


def tiled(fields: Fields, draw: Random) -> bytes:
    """Offsets as they must be, for every entry that has a size, and a body for them."""
    position = 0
    for entry in fields.values():
        kind, shape = (
            (entry.get(key) for key in ("dtype", "shape")) if isinstance(entry, dict) else (0, 0)
        )
        proper = isinstance(shape, list) and all(type(side) is int for side in shape)
        if not proper or not isinstance(kind, str) or kind not in SIZES:
            continue
        size = SIZES[kind] * prod(shape)
        if 0 <= size <= _BODY - position:
            entry["data_offsets"] = [position, position + size]
            position += size
    return draw.randbytes(position)


def _closed(text: bytes, body: bytes, draw: Random) -> bytes:
    length = edge(draw, len(text)) % 2**64 if draw.random() < 0.03 else len(text)
    return container(text, body, length=length)


def _edited_text(text: bytes, draw: Random) -> bytes:
    """One number, string or place of the JSON as it is written."""
    found = tuple(draw.choice((_NUMBER, _STRING)).finditer(text))
    begin, end = draw.choice(found).span() if found else (0, 0)
    match draw.randrange(5):
        case 0:
            new = str(edge(draw)).encode()
        case 1:
            new = draw.choice(_SNIPPETS)
        case 2:
            new = json.dumps(names.name(draw)).encode()
        case 3:
            new = text[begin:end] + b"," + text[begin:end]
        case _:
            place = draw.randrange(len(text) + 1)
            return text[:place] + draw.choice(_SNIPPETS) + text[place:]
    return text[:begin] + new + text[end:]


def _entry(fields: Fields, draw: Random) -> Fields:
    entries = [value for value in fields.values() if isinstance(value, dict)]
    return draw.choice(entries) if entries else {}


def _numbers(fields: Fields, draw: Random) -> None:
    entry = _entry(fields, draw)
    values = entry.get(draw.choice(("shape", "data_offsets")))
    if isinstance(values, list) and values:
        place = draw.randrange(len(values))
        near = values[place] if isinstance(values[place], int) else None
        values[place] = edge(draw, near)


def _sides(fields: Fields, draw: Random) -> None:
    entry = _entry(fields, draw)
    entry["shape"] = [
        edge(draw) if draw.random() < 0.2 else draw.choice((0, 1, 2, 2**31 - 1))
        for _ in range(draw.randrange(10))
    ]


def _dtype(fields: Fields, draw: Random) -> None:
    _entry(fields, draw)["dtype"] = draw.choice(_DTYPES)


def _rename(fields: Fields, draw: Random) -> None:
    if fields:
        fields[names.name(draw)] = fields.pop(draw.choice(tuple(fields)))


def _add(fields: Fields, draw: Random) -> None:
    fields |= {"a": {}} if draw.random() < 0.1 else drawn(draw)


def _drop(fields: Fields, draw: Random) -> None:
    target = draw.choice((fields, _entry(fields, draw)))
    if target:
        target.pop(draw.choice(tuple(target)))


def _metadata(fields: Fields, draw: Random) -> None:
    fields["__metadata__"] = draw.choice(
        (
            {},
            {"format": "pt"},
            {"format": "mlx", "ipa_layout": "1"},
            {"format": "mlx"},
            {"format": "flax"},
            {"format": "\ud800", "ipa_layout": "\ud800"},
            {"ipa_layout": "x" * 3000},
            {"a": 1},
            [],
            None,
            "x",
        )
    )


_EDITS: tuple[Callable[[Fields, Random], None], ...] = (
    _numbers,
    _sides,
    _dtype,
    _rename,
    _add,
    _drop,
    _metadata,
)
