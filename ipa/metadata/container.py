"""Texts in a picture's file, read without its pixels: PNG, JPEG and WebP.

PNG's chunks are walked here: Pillow decodes the pixels to get at texts behind them, and refuses
compressed texts over 1 MiB. JPEG's and WebP's EXIF and XMP are found by Pillow.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image

from ipa.errors import RequestError
from ipa.request.pictures import DECODE_ERRORS

from .user_comment import comment_text

MAX_TEXT = 16 << 20
"""The bytes of one text, unpacked."""

MAX_FILE = 512 << 20
"""The bytes of a picture's file."""

REFERENCE = b"ipAm"
"""The PNG chunk of a picture that was embedded: ancillary, private, safe to copy."""

XMP_KEY = "XML:com.adobe.xmp"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 100_000
_MODEL = 0x0110  # the camera's; SwarmUI's older files keep JSON there
_COMMENT = 0x9286


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The texts in a picture's file.

    Attributes:
        kind: "PNG", "JPEG" or "WEBP".
        size: (width, height) in pixels.
        texts: PNG's texts by key; of a key that stands twice the first.
        xmp: The XMP packet.
        comment: EXIF's UserComment.
        file_comment: JPEG's own comment.
        camera: EXIF's camera model.
        references: The chunks of embedded pictures, as they stand.
    """

    kind: str
    size: tuple[int, int]
    texts: Mapping[str, str] = field(default_factory=dict)
    xmp: str | None = None
    comment: str | None = None
    file_comment: str | None = None
    camera: str | None = None
    references: tuple[bytes, ...] = field(default=(), repr=False)


def read_contents(source: Path | bytes, what: str = "") -> Contents:
    """Read the texts of a picture's file, given by its path or its bytes.

    Raises:
        RequestError: It is missing, damaged, too large, or neither PNG, JPEG nor WebP.
    """
    name = what or (str(source) if isinstance(source, Path) else "the picture")
    if isinstance(source, Path) and not source.is_file():
        found = "a folder" if source.is_dir() else "no such file"
        raise RequestError(f"picture {name} cannot be read", found=found, remedy="check the path")
    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            _check_size(file, name)
            return _png(file, name) if file.read(8) == _SIGNATURE else _other(file)
    except RequestError:
        raise
    except (*DECODE_ERRORS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(
            f"{name} cannot be read",
            found=str(error)[:200] or type(error).__name__,
            remedy="give a PNG, JPEG or WebP file",
        ) from error


def _check_size(file: BinaryIO, name: str) -> None:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size > MAX_FILE:
        raise RequestError(f"{name} is too large", found=f"{size} bytes; the limit is {MAX_FILE}")


# PNG (https://www.w3.org/TR/png-3).


def _png(file: BinaryIO, name: str) -> Contents:
    texts: dict[str, str] = {}
    references: list[bytes] = []
    size, exif = (0, 0), b""
    for number, (kind, data) in enumerate(_chunks(file)):
        if number == 0 and (kind != b"IHDR" or len(data) != 13):
            raise ValueError("a PNG that does not begin with its header")
        if kind == b"IHDR":
            size = (int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big"))
        elif kind in _TEXTS:
            key, text = _TEXTS[kind](data)
            texts.setdefault(key, text)
        elif kind == b"eXIf":
            exif = exif or data
        elif kind == REFERENCE:
            references.append(data)
    comment, camera = _of_exif(exif)
    return Contents(
        kind="PNG",
        size=size,
        texts=texts,
        xmp=texts.get(XMP_KEY),
        comment=comment,
        camera=camera,
        references=tuple(references),
    )


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The chunks that hold words, with their data; others are passed over."""
    read = {b"IHDR", b"eXIf", REFERENCE, *_TEXTS}
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND":
            return
        if not kind.isalpha() or length > 0x7FFFFFFF:
            raise ValueError("a damaged PNG chunk")
        if kind not in read:
            file.seek(length + 4, io.SEEK_CUR)
            continue
        if kind in _TEXTS and length > MAX_TEXT:
            raise ValueError(f"a text of {length} bytes; the limit is {MAX_TEXT}")
        data, check = file.read(length), file.read(4)
        if len(data) < length or len(check) < 4:
            raise ValueError("a PNG that is cut off")
        if zlib.crc32(kind + data).to_bytes(4, "big") != check:
            raise ValueError(f"a damaged chunk {kind.decode()}")
        yield kind, data
    raise ValueError(f"more than {_MOST_CHUNKS} chunks")


def _plain(data: bytes) -> tuple[str, str]:
    key, _, text = data.partition(b"\0")
    return key.decode("latin-1"), text.decode("latin-1")


def _packed(data: bytes) -> tuple[str, str]:
    key, _, rest = data.partition(b"\0")
    return _plain(key + b"\0" + _unpacked(rest[1:]))


def _international(data: bytes) -> tuple[str, str]:
    key, _, rest = data.partition(b"\0")
    is_packed, rest = rest[:1] == b"\1", rest[2:]
    text = rest.split(b"\0", 2)[-1]
    return key.decode("latin-1"), (_unpacked(text) if is_packed else text).decode("utf-8")


def _unpacked(data: bytes) -> bytes:
    machine = zlib.decompressobj()
    text = machine.decompress(data, MAX_TEXT)
    if machine.unconsumed_tail:
        raise ValueError(f"a text of more than {MAX_TEXT} bytes")
    return text


_TEXTS = {b"tEXt": _plain, b"zTXt": _packed, b"iTXt": _international}


# JPEG and WebP.


def _other(file: BinaryIO) -> Contents:
    file.seek(0)
    with Image.open(file, formats=("JPEG", "WEBP")) as image:
        info, kind = image.info, str(image.format)
        comment, camera = _of_exif(info.get("exif", b""))
        return Contents(
            kind=kind,
            size=image.size,
            xmp=_decoded(info.get("xmp")),
            comment=comment,
            file_comment=_decoded(info.get("comment")),
            camera=camera,
        )


def _decoded(value: object) -> str | None:
    if not isinstance(value, bytes) or len(value) > MAX_TEXT:
        return None
    return value.decode("utf-8", "replace").rstrip("\0") or None


def _of_exif(data: bytes) -> tuple[str | None, str | None]:
    """UserComment and the camera's model; None of damaged EXIF, whose picture may be sound."""
    exif = Image.Exif()
    try:
        exif.load(data)
        comment, camera = exif.get_ifd(ExifTags.IFD.Exif).get(_COMMENT), exif.get(_MODEL)
    except DECODE_ERRORS:
        return None, None
    text = comment_text(comment) if isinstance(comment, bytes) else comment
    return (
        text if isinstance(text, str) and text else None,
        camera if isinstance(camera, str) else None,
    )
