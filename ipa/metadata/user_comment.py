"""EXIF's UserComment, which holds A1111's text in JPEG and WebP: UTF-16, the high byte first.

Readers take what follows the eight bytes of its code as big-endian, whatever else it says.
"""

from __future__ import annotations

import struct

_UNICODE, _ASCII, _UNSAID = b"UNICODE\0", b"ASCII\0\0\0", b"\0" * 8
_TEXT, _LONG, _UNDEFINED = 2, 4, 7  # types of TIFF
_SOFTWARE, _EXIF, _VERSION, _COMMENT = 0x0131, 0x8769, 0x9000, 0x9286
_HEAD = b"MM\0*\0\0\0\x08"


def exif_bytes(comment: str | None, software: str) -> bytes:
    """EXIF with a comment and the name of a program, as `Image.save(exif=)` takes it.

    Written here, since Pillow gives UserComment the type of single bytes, where EXIF 2.32 says
    undefined, and piexif reads nothing else.
    """
    values = [(_VERSION, _UNDEFINED, b"0232")]
    if comment is not None:
        text = comment.encode("utf-16-be", "surrogatepass")
        values.append((_COMMENT, _UNDEFINED, _UNICODE + text))
    program = (_SOFTWARE, _TEXT, software.encode("ascii", "replace") + b"\0")
    # The first directory says where the second lies: behind it, so at a place that is known.
    behind = len(_HEAD) + len(_directory([program, (_EXIF, _LONG, bytes(4))], len(_HEAD)))
    first = _directory([program, (_EXIF, _LONG, struct.pack(">I", behind))], len(_HEAD))
    return b"Exif\0\0" + _HEAD + first + _directory(values, behind)


def _directory(entries: list[tuple[int, int, bytes]], place: int) -> bytes:
    """A directory of TIFF that stands at a place, with its values behind it."""
    table, values = struct.pack(">H", len(entries)), b""
    begin = place + 2 + 12 * len(entries) + 4
    for tag, kind, value in entries:
        count = len(value) // 4 if kind == _LONG else len(value)
        inside = (
            value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(">I", begin + len(values))
        )
        table += struct.pack(">HHI", tag, kind, count) + inside
        if len(value) > 4:
            values += value + bytes(len(value) % 2)
    return table + bytes(4) + values


def comment_text(comment: bytes) -> str:
    """The text of a UserComment, in whichever order of bytes its letters are words."""
    code, data = comment[:8], comment[8:]
    if code == _UNICODE:
        return _utf16(data).strip("\0")
    if code in (_ASCII, _UNSAID):
        return data.decode("utf-8", "replace").strip("\0")
    return comment.decode("utf-8", "replace").strip("\0")


def _utf16(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    # Of Latin letters the high byte is 0: it is first in the right order.
    order = "utf-16-be" if data[::2].count(0) >= data[1::2].count(0) else "utf-16-le"
    return data.decode(order, "replace")
