"""The members of a zip archive that holds nothing compressed, checked before one is looked at.

Two parsers can see two archives in one file: by bytes before or after it, by members that overlap
or share a name, by local headers that contradict the directory. Such files are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from .pickle_machine import Buffer
from .pickle_values import RefusedError

_MAX_MEMBERS = 200_000
_LOCAL = struct.Struct("<4s5HIIIHH")
_CENTRAL = struct.Struct("<4s6HIIIHHHHHII")
_END = struct.Struct("<4s4HIIH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_EXTRA = struct.Struct("<HH")
_ZIP64 = 1  # id of the extra field with 64-bit sizes
_ENCRYPTED = 1
_FOLDER = 0x10  # an attribute; torch would read nothing, and leave the tensor as it was
_FULL2, _FULL4 = 0xFFFF, 0xFFFF_FFFF  # "see the 64-bit field"
_CUT = "download it again"


@dataclass(frozen=True, slots=True)
class Member:
    """A zip member: its name, where its header and data begin, its bytes, and their checksum."""

    name: bytes
    header: int
    begin: int
    size: int
    crc: int

    @property
    def end(self) -> int:
        """The byte at which the member's data end."""
        return self.begin + self.size


@dataclass(frozen=True, slots=True)
class _Directory:
    count: int
    begin: int
    end: int


def members(buffer: Buffer) -> Mapping[str, Member]:
    """The members of a zip by name, in the order of the file.

    Raises:
        RefusedError: Anything is compressed, doubled, overlapping, outside, or contradictory.
    """
    directory = _directory(buffer)
    found = sorted(_members(buffer, directory), key=lambda m: (m.header, m.end))
    if not found or found[0].header != 0:
        raise RefusedError("bytes before the first member of the archive")
    for one, other in pairwise(found):
        if one.end > other.header:
            raise RefusedError(f"members of the archive that overlap: {_show(one)}, {_show(other)}")
    if found[-1].end > directory.begin:
        raise RefusedError(f"{_show(found[-1])} reaches beyond the end of the archive", _CUT)
    named = {member.name.decode("utf-8", "replace"): member for member in found}
    if len({name.casefold() for name in named}) < len(found):
        raise RefusedError("two members of one name in the archive")
    return named


def _directory(buffer: Buffer) -> _Directory:
    """The central directory, found from the records at the very end, as torch writes them."""
    place = len(buffer) - _END.size
    if place < 0 or buffer[place : place + 4] != b"PK\5\6":
        raise RefusedError("an archive without an end, or with bytes after it", _CUT)
    _, *disks, count, size, begin, comment = _END.unpack(buffer[place:])
    here, total = disks[-1], count
    if comment or any(disks[:2]) or here != total:
        raise RefusedError("an archive with a comment, or in several parts")
    locator = place - _LOCATOR.size
    if locator >= 0 and buffer[locator : locator + 4] == b"PK\6\7":
        place, wide = _wide_end(buffer, locator)
        for value, (short, full) in zip(
            wide, ((count, _FULL2), (size, _FULL4), (begin, _FULL4)), strict=True
        ):
            if short not in (value, full):
                raise RefusedError("an archive with two different directories")
        count, size, begin = wide
    if begin + size != place:
        raise RefusedError("an archive whose directory is not where it says")
    if count > min(_MAX_MEMBERS, size // _CENTRAL.size):
        raise RefusedError(f"an archive of {count} members in {size} bytes")
    return _Directory(count, begin, place)


def _wide_end(buffer: Buffer, locator: int) -> tuple[int, tuple[int, int, int]]:
    """The 64-bit end record: its place, and its count, size and begin."""
    _, disk, place, disks = _LOCATOR.unpack(buffer[locator : locator + _LOCATOR.size])
    if disk or disks > 1 or place + _END64.size != locator:
        raise RefusedError("an archive whose directory is not where it says")
    magic, length, _, _, disk, first, here, count, size, begin = _END64.unpack(
        buffer[place : place + _END64.size]
    )
    if magic != b"PK\6\6" or length != _END64.size - 12 or disk or first or here != count:
        raise RefusedError("an archive whose directory is not where it says")
    return place, (count, size, begin)


def _members(buffer: Buffer, directory: _Directory) -> Iterator[Member]:
    place = directory.begin
    for _ in range(directory.count):
        if place + _CENTRAL.size > directory.end:
            raise RefusedError("an archive whose directory is cut off", _CUT)
        row = _CENTRAL.unpack(buffer[place : place + _CENTRAL.size])
        magic, _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, kind, header = row
        after = place + _CENTRAL.size + sum(lengths)
        if magic != b"PK\1\2" or after > directory.end:
            raise RefusedError("an archive whose directory is damaged", _CUT)
        start = place + _CENTRAL.size + lengths[0]
        name, extra = buffer[start - lengths[0] : start], buffer[start : start + lengths[1]]
        size, packed, header = _widened(extra, (size, packed, header))
        if method or flags & _ENCRYPTED or size != packed or disk or kind & _FOLDER or lengths[2]:
            raise RefusedError(
                f"{name[:80]!r} is compressed, encrypted, a folder or commented in the archive",
                "torch never writes such files: load it in torch and save it as safetensors",
            )
        yield _located(buffer, directory, name, header, size, crc)
        place = after
    if place != directory.end:
        raise RefusedError("bytes after the last entry of the archive's directory")


def _widened(extra: bytes, values: tuple[int, int, int]) -> tuple[int, ...]:
    """A member's sizes and place, from the 64-bit extra field where the short ones are full."""
    wide, place = b"", 0
    while place + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, place)
        place += _EXTRA.size
        if kind == _ZIP64:
            wide = extra[place : place + length]
        place += length
    needed = sum(value == _FULL4 for value in values)
    if len(wide) < 8 * needed:
        raise RefusedError("a member of the archive without a size")
    numbers = iter(struct.unpack_from(f"<{needed}Q", wide))
    return tuple(next(numbers) if value == _FULL4 else value for value in values)


def _located(
    buffer: Buffer, directory: _Directory, name: bytes, header: int, size: int, crc: int
) -> Member:
    """A member with the begin of its data, past the local header that torch leaves at zero."""
    start = header + _LOCAL.size
    if start > directory.begin:
        raise RefusedError(f"{name[:80]!r} begins beyond the end of the archive", _CUT)
    magic, _, flags, method, *_, name_bytes, extra_bytes = _LOCAL.unpack(buffer[header:start])
    if (
        magic != b"PK\3\4"
        or method
        or flags & _ENCRYPTED
        or buffer[start : start + name_bytes] != name
    ):
        raise RefusedError(f"{name[:80]!r} is not where the archive's directory says")
    return Member(name, header, start + name_bytes + extra_bytes, size, crc)


def _show(member: Member) -> str:
    return repr(member.name[:80].decode("utf-8", "replace"))
