"""Mutants of the pickles of weights: opcodes, their arguments, and whole state dicts drawn anew."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from fuzz import names
from fuzz.numbers import edge, text
from oracle import pickles

_KINDS: Mapping[str, int] = {
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "DoubleStorage": 8,
    "LongStorage": 8,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_NAMES = (
    *(("torch", kind) for kind in _KINDS),
    ("torch", "Size"),
    ("torch", "float8_e5m2"),
    ("torch", "uint16"),
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.storage", "UntypedStorage"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("numpy.core.multiarray", "scalar"),
    ("argparse", "Namespace"),
    ("collections", "defaultdict"),
    ("omegaconf.dictconfig", "DictConfig"),
    ("pathlib", "PosixPath"),
    ("typing", "Any"),
    ("os", "system"),
    ("builtins", "exec"),
    ("fuzz_never_imported", "x"),
    ("antigravity", "x"),
    ("torch", "load"),
    ("numpy", "load"),
)
_PIECES = (
    *(
        bytes([code])
        for code in b".(}])tNsuaeRbQ\x85\x86\x87\x88\x89\x93\x94" + b"0123iodlVFIL\x81\x92\x8f\x96"
    ),
    b"q\0",
    b"h\0",
    b"r\0\0\0\0",
    b"j\0\0\0\0",
    b"r\xff\xff\xff\xff",
    b"K\1",
    b"M\0\1",
    b"J\xff\xff\xff\xff",
    b"\x80\2",
    b"\x80\4",
    b"\x95" + bytes(8),
    b"\x8a\0",
    b"\x8a\1\xff",
    b"\x8a\xff",
    b"\x8b\4\0\0\0aaaa",
    b"G" + bytes(8),
    b"C\1a",
    b"B\1\0\0\0a",
    b"U\1a",
    b"T\1\0\0\0a",
    b"\x8c\1a",
    b"\x8d" + bytes(8),
    b"\x82\1",
    pickles.storage(),
    pickles.storage("HalfStorage", "1"),
    pickles.tensor(),
    pickles.tensor((2, 2), (1, 2)),
    pickles.call("collections", "OrderedDict"),
    pickles.name("torch._utils", "_rebuild_tensor_v2"),
    pickles.call("torch._utils", "_rebuild_parameter", pickles.tensor(), b"\x88", b"}"),
    pickles.call("argparse", "Namespace"),
    pickles.name("omegaconf.dictconfig", "DictConfig") + b")\x81}b",
    pickles.call("collections", "defaultdict") + b"NNs",
)


@dataclass(frozen=True, slots=True)
class State:
    """A pickle of a state dict, and the elements and bytes of each of its storages."""

    pickle: bytes
    counts: Mapping[str, int]
    sizes: Mapping[str, int]


def opcodes(pickle: bytes) -> list[bytes]:
    """Its opcodes with their arguments; what cannot be split is one piece at the end."""
    places = []
    with suppress(Exception):  # mutants break it in many ways
        places = [place for _, _, place in pickletools.genops(pickle)]
    if not places:
        return [pickle]
    return [pickle[a:b] for a, b in zip(places, [*places[1:], len(pickle)], strict=True)]


def edit(pickle: bytes, draw: Random) -> bytes:
    """Another pickle."""
    codes = opcodes(pickle)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        draw.choice(_EDITS)(codes, draw)
    return b"".join(codes)


def drawn(draw: Random, *, old: bool) -> State:
    """A state dict of tensors that mostly lie within their storages, in rows or across."""
    counts: dict[str, tuple[int, int]] = {}
    entries, known = [], draw.choice(tuple(names.KNOWN.values()))
    shapes = (
        dict(known)
        if draw.random() < 0.3
        else {names.name(draw): names.shape(draw) for _ in range(draw.randrange(1, 5))}
    )
    for name, shape in shapes.items():
        entries.append(text(name) + _tensor(shape, counts, draw, old=old))
    body = b"}(" + b"".join(entries) + b"u"
    if draw.random() < 0.2:
        body = b"}" + text(draw.choice(("state_dict", "image_proj", "a"))) + body + b"s"
    return State(
        pickles.START + body + b".",
        {key: count for key, (count, _) in counts.items()},
        {key: count * size for key, (count, size) in counts.items()},
    )


def _tensor(
    shape: tuple[int, ...], counts: dict[str, tuple[int, int]], draw: Random, *, old: bool
) -> bytes:
    order = sorted(range(len(shape)), key=lambda _: draw.random())
    order = order if draw.random() < 0.4 else list(range(len(shape)))
    strides, reach = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = reach
        reach *= max(1, shape[axis])
    offset, kind = draw.choice((0, 0, 1, 3)), draw.choice(tuple(_KINDS))
    for axis, side in enumerate(shape):
        if (side < 2 and draw.random() < 0.2) or draw.random() < 0.03:
            strides[axis] = edge(draw) % 2**120
    key, count = str(len(counts)), offset + reach + draw.choice((0, 0, 5))
    counts[key] = count, _KINDS[kind]
    more = (pickles.NONE,) if old else ()
    source = pickles.storage(kind, key, count, *more)
    made = pickles.tensor(shape, strides, offset, source)
    if draw.random() < 0.2:
        made = pickles.call("torch._utils", "_rebuild_parameter", made, b"\x88", b"}")
    return made


def _argument(codes: list[bytes], draw: Random) -> None:
    """Another argument of one opcode, of the same form."""
    for place in draw.sample(range(len(codes)), min(8, len(codes))):
        make = _ARGUMENTS.get(codes[place][:1])
        if make is not None:
            codes[place] = make(codes[place], draw)
            return


def _insert(codes: list[bytes], draw: Random) -> None:
    piece = pickles.name(*draw.choice(_NAMES)) if draw.random() < 0.2 else draw.choice(_PIECES)
    codes.insert(draw.randrange(len(codes) + 1), piece)


def _remove(codes: list[bytes], draw: Random) -> None:
    if codes:
        place = draw.randrange(len(codes))
        del codes[place : place + draw.choice((1, 1, 2, 5))]


def _repeat(codes: list[bytes], draw: Random) -> None:
    place = draw.randrange(len(codes) + 1)
    piece = codes[place : place + draw.randrange(1, 6)]
    codes[place:place] = piece * draw.choice((1, 1, 2, 30, 250))


def _move(codes: list[bytes], draw: Random) -> None:
    if codes:
        piece = codes.pop(draw.randrange(len(codes)))
        codes.insert(draw.randrange(len(codes) + 1), piece)


def _number(_: bytes, draw: Random) -> bytes:
    value = edge(draw)
    if draw.random() < 0.3 and 0 <= value < 256:
        return b"K" + bytes([value])
    return pickles.number(value)


_ARGUMENTS: Mapping[bytes, Callable[[bytes, Random], bytes]] = {
    **dict.fromkeys((b"K", b"M", b"J", b"\x8a"), _number),
    **dict.fromkeys((b"X", b"\x8c", b"U"), lambda _, draw: text(names.name(draw))),
    b"c": lambda _, draw: pickles.name(*draw.choice(_NAMES)),
    **dict.fromkeys((b"h", b"q"), lambda code, draw: code[:1] + bytes([draw.randrange(12)])),
    b"\x80": lambda _, draw: b"\x80" + bytes([draw.randrange(8)]),
    b"\x95": lambda _, draw: b"\x95" + struct.pack("<Q", edge(draw) % 2**64),
    **dict.fromkeys((b"\x88", b"\x89", b"N"), lambda _, draw: draw.choice((b"N", b"}", b"\x88"))),
}
_EDITS = (_argument, _argument, _argument, _insert, _remove, _repeat, _move)
