"""Mutants of torch's archives and streams: members, directories and counts, checksums put right."""

from __future__ import annotations

import io
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Sequence
from random import Random

from fuzz import programs
from fuzz.numbers import edge, scribble
from oracle import pickles

Members = list[tuple[str, bytes]]
_DATE = (1980, 1, 1, 0, 0, 0)
_NAMES = (
    "archive/data.pkl",
    "archive/version",
    "archive/byteorder",
    "archive/data/0",
    "archive/data/1",
    "archive/DATA/0",
    "archive/.data/serialization_id",
    "archive/data/x",
    "archive/data/",
    "archive/code/a.py",
    "other/data.pkl",
    "../data.pkl",
    "archive/../x",
    "archive/data/" + "a" * 41,
    "archive",
    "",
    "archive/constants.pkl",
)
# (bytes of the signature, fields as (offset, size)) of the records of an archive.
_RECORDS: Sequence[tuple[bytes, tuple[tuple[int, int], ...]]] = (
    (b"PK\3\4", ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))),
    (
        b"PK\1\2",
        (
            (8, 2),
            (10, 2),
            (16, 4),
            (20, 4),
            (24, 4),
            (28, 2),
            (30, 2),
            (32, 2),
            (34, 2),
            (38, 4),
            (42, 4),
        ),
    ),
    (b"PK\5\6", ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))),
    (b"PK\6\6", ((4, 8), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8))),
    (b"PK\6\7", ((4, 4), (8, 8), (16, 4))),
)


def pack(members: Members, *, wide: bool = False) -> bytes:
    """An archive of stored members, the same at any time; wide has the 64-bit records too."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as target:
        warnings.simplefilter("ignore")  # one name twice is meant
        for name, raw in members:
            info = zipfile.ZipInfo("a", _DATE)
            info.filename = name  # as it is: the constructor would change separators
            target.writestr(info, raw)
    data = file.getvalue()
    return widened(data) if wide else data


def widened(data: bytes) -> bytes:
    """torch's form: a 64-bit end record and its locator before the short one."""
    head, end = data[:-22], data[-22:]
    count, size, begin = struct.unpack("<HII", end[10:20])
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, begin)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(head), 1)
    short = end[:8] + b"\xff" * 12 + end[20:]
    return head + record + locator + short


def unpack(data: bytes) -> Members:
    """The members of an archive, none if it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            return [(i.filename, source.read(i)[:65536]) for i in source.infolist()[:40]]
    except Exception:  # noqa: BLE001 - mutants break it in many ways
        return []


def edit(data: bytes, draw: Random) -> bytes:
    """Another archive: its pickle, its members, its records, or a new one."""
    chance = draw.random()
    if chance < 0.25:
        return _edited_record(data, draw)
    members = unpack(data)
    if not members or chance < 0.4:
        return drawn(draw)
    if chance < 0.55:
        draw.choice((_rename, _resize, _copy, _drop))(members, draw)
    else:
        members = [
            (name, programs.edit(raw, draw) if name.endswith("data.pkl") else raw)
            for name, raw in members
        ]
    return pack(members, wide=draw.random() < 0.3)


def drawn(draw: Random) -> bytes:
    """An archive around a state dict drawn anew."""
    state = programs.drawn(draw, old=False)
    pickle = programs.edit(state.pickle, draw) if draw.random() < 0.3 else state.pickle
    members = [("archive/data.pkl", pickle), ("archive/version", b"3\n")]
    members += [(f"archive/data/{k}", draw.randbytes(size)) for k, size in state.sizes.items()]
    return pack(members, wide=draw.random() < 0.3)


def _rename(members: Members, draw: Random) -> None:
    place = draw.randrange(len(members))
    members[place] = draw.choice(_NAMES), members[place][1]


def _resize(members: Members, draw: Random) -> None:
    place = draw.randrange(len(members))
    name, raw = members[place]
    members[place] = name, draw.choice((raw[:-1], raw + b"\0", b"", raw * 2, b"big", b"little"))


def _copy(members: Members, draw: Random) -> None:
    members.insert(draw.randrange(len(members) + 1), (draw.choice(_NAMES), draw.choice(members)[1]))


def _drop(members: Members, draw: Random) -> None:
    del members[draw.randrange(len(members))]


def _edited_record(data: bytes, draw: Random) -> bytes:
    """One field of one record; half of the time two sizes that must agree do so."""
    magic, fields = draw.choice(_RECORDS)
    places = [i for i in range(len(data)) if data.startswith(magic, i)]
    if not places:
        return widened(data) if len(data) > 22 else data
    place, (offset, size) = draw.choice(places), draw.choice(fields)
    changed = scribble(data, place + offset, size, draw)
    if magic == b"PK\1\2" and offset in (20, 24) and draw.random() < 0.5:
        new = changed[place + offset : place + offset + 4]
        changed = changed[: place + 20] + new * 2 + changed[place + 28 :]
    return changed


def edit_stream(data: bytes, draw: Random) -> bytes:
    """Another stream: one of its pickles, its counts, or a new one."""
    ends = pickle_ends(data)
    if len(ends) < 5 or draw.random() < 0.3:
        return drawn_stream(draw)
    if draw.random() < 0.2:
        return scribble(data, ends[4] + draw.choice((0, 0, 1, 24)), 8, draw)
    which = draw.choice((0, 1, 2, 3, 3, 3, 4))
    begin, end = (ends[which - 1] if which else 0), ends[which]
    return data[:begin] + programs.edit(data[begin:end], draw) + data[end:]


def drawn_stream(draw: Random) -> bytes:
    """A stream around a state dict drawn anew."""
    state = programs.drawn(draw, old=True)
    keys = pickles.START + b"](" + b"".join(pickles.text(key) for key in state.sizes) + b"e."
    tail = b""
    for raw in _storages(state, draw):
        tail += raw
    return pickles.stream(state.pickle, keys, tail)


def _storages(state: programs.State, draw: Random) -> list[bytes]:
    found = []
    for key, size in state.sizes.items():
        count = state.counts[key] if draw.random() < 0.97 else edge(draw) % 2**63
        found.append(struct.pack("<q", count) + draw.randbytes(size))
    return found


def pickle_ends(data: bytes) -> list[int]:
    """Where each of a stream's first five pickles ends."""
    ends: list[int] = []
    place = 0
    try:
        for _ in range(5):
            place += max(at for _, _, at in pickletools.genops(data[place:])) + 1
            ends.append(place)
    except Exception:  # noqa: BLE001 - mutants break it in many ways
        pass
    return ends
