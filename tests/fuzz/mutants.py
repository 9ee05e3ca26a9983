"""One mutant of a file: by its container, by another's piece, or by plain damage."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

from fuzz import archives, headers
from fuzz.numbers import damage, inflated

Kind = Literal["safetensors", "zip", "stream"]
_LIMIT = 1 << 16  # bytes; inflated ones are larger
_EDITS = {"safetensors": headers.edit, "zip": archives.edit, "stream": archives.edit_stream}


def kind(data: bytes) -> Kind:
    """Which container a file belongs to, or most resembles."""
    if data[8:9] == b"{":
        return "safetensors"
    return "zip" if data[:2] == b"PK" else "stream"


def mutant(data: bytes, others: Sequence[bytes], draw: Random) -> bytes:
    """Another file, of 64 KiB at most; one in two hundred is up to 512 KiB long."""
    chance = draw.random()
    if chance < 0.005:
        return _inflated(data, draw)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if draw.random() < 0.75:
            data = _EDITS[kind(data)](data, draw)
        else:
            data = damage(data, tuple(draw.choices(others, k=2)), draw)
    return data[:_LIMIT]


def _inflated(data: bytes, draw: Random) -> bytes:
    """Blown up inside, where outer checks allow it."""
    match kind(data):
        case "safetensors":
            text, body = headers.parts(data)
            return headers.container(inflated(text or b"{}", draw), body)
        case "zip":
            members = [
                (name, inflated(raw, draw) if raw and name.endswith("data.pkl") else raw)
                for name, raw in archives.unpack(data)
            ]
            return archives.pack(members)
        case _:
            return inflated(data or b"\x80", draw)
