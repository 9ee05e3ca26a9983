"""Numbers at which arithmetic turns, and small helpers of the mutators."""

from __future__ import annotations

import struct
from random import Random

EDGES = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 64, 100, 127, 128, 255, 256, 257),
    *(0x7FFF, 0x8000, 0xFFFF, 0x10000, 100_000, 100_000_000),
    *(
        sign * 2**power + step
        for power in (31, 32, 53, 62, 63, 64)
        for sign, step in ((1, -1), (1, 0))
    ),
    *(-1, -2, -128, -(2**31), -(2**63), 2**61 - 1, 2**100, 2**126),
)
_SIZES = (1, 2, 4, 8)


def edge(draw: Random, near: int | None = None) -> int:
    """One of them, or a neighbour of the number that was there."""
    if near is not None and abs(near) < 2**200 and draw.random() < 0.5:
        return draw.choice(
            (near + 1, near - 1, near * 2, near // 2, near ^ (1 << draw.randrange(16)))
        )
    return draw.choice(EDGES)


def scribble(data: bytes, place: int, size: int, draw: Random) -> bytes:
    """Another little-endian number of so many bytes at a place."""
    if place < 0 or place + size > len(data):
        return data
    near = int.from_bytes(data[place : place + size], "little")
    value = edge(draw, near) % (1 << 8 * size)
    return data[:place] + value.to_bytes(size, "little") + data[place + size :]


def damage(data: bytes, others: tuple[bytes, ...], draw: Random) -> bytes:
    """Bytes changed without regard to what they mean."""
    if not data:
        return bytes([draw.randrange(256)])
    place = draw.randrange(len(data))
    span = min(len(data) - place, draw.choice((1, 2, 4, 8, 16, 64, 256)))
    piece = data[place : place + span]
    other = draw.choice(others) or b"\0"
    start = draw.randrange(len(other))
    match draw.randrange(8):
        case 0:
            return data[:place] + bytes([piece[0] ^ (1 << draw.randrange(8))]) + data[place + 1 :]
        case 1:
            return scribble(data, place, draw.choice(_SIZES), draw)
        case 2:
            return data[:place]
        case 3:
            return data[:place] + data[place + span :]
        case 4:
            return data[:place] + piece * draw.choice((2, 3, 50)) + data[place + span :]
        case 5:
            return data[:place] + other[start : start + span] + data[place + span :]
        case 6:
            return data[:place] + other[start:]
        case _:
            return data[:place] + draw.randbytes(span) + data[place:]


def inflated(data: bytes, draw: Random, limit: int = 1 << 19) -> bytes:
    """A short piece of it, very often: what costs little in a file and much in memory."""
    place = draw.randrange(len(data))
    piece = data[place : place + draw.randrange(1, 64)] or b"\0"
    return data[:place] + piece * (draw.randrange(1, limit) // len(piece)) + data[place:]


def text(value: str) -> bytes:
    """A pickled string; what is too long, or cannot be spelled in UTF-8, too."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw
