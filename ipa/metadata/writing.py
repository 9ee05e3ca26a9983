"""A picture as the bytes of a file, with what it says of how it was made."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipa.checks import _check_integer
from ipa.errors import RequestError, shown
from ipa.prepare.images.pictures import to_rgb
from ipa.version import __version__

from . import a1111
from .container import REFERENCE, XMP_KEY
from .ours import NO_HASHES, FileHashes, a1111_parameters, model_name
from .reading import METADATA_KEY
from .user_comment import exif_bytes
from .xmp import REQUEST, Marks, packet

FORMATS: Mapping[str, str] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
}
"""The formats of pictures by the ends of their names."""

AMOUNTS = ("full", "minimal", "none")
"""How much a picture says: all; no words of the request, but that it was generated; nothing."""

QUALITY = 95
"""The usual quality of JPEG and WebP."""

# Of one segment of JPEG (ISO/IEC 10918-1), less the words that say what it is.
_MOST_XMP, _MOST_EXIF = 65_533 - 29, 65_533 - 6
_WEBP_SIDE = 16_383  # Pillow's, which is libwebp's


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """How pictures are written.

    Attributes:
        metadata: One of `AMOUNTS`.
        quality: Of JPEG and WebP, 1 to 100; WebP at 100 keeps every pixel.
    """

    metadata: str = "full"
    quality: int = QUALITY

    def __post_init__(self) -> None:
        if self.metadata not in AMOUNTS:
            raise RequestError(
                "metadata says how much a picture tells of itself",
                found=shown(self.metadata),
                remedy=f"one of {', '.join(AMOUNTS)}",
            )
        _check_integer("quality", self.quality, 1, 100)


AS_USUAL = Saved()


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFile:
    """The bytes of a picture's file, and notes on what it could not hold."""

    data: bytes
    notes: tuple[str, ...] = ()


def png_bytes(
    image: Image.Image, info: Mapping[str, Any] | None = None, saved: Saved = AS_USUAL
) -> bytes:
    """A picture as a PNG, with JSON-able `info` (`Result.info`) in its text, before the pixels."""
    return picture_file(image, info, saved=saved).data


def picture_file(
    image: Image.Image,
    info: Mapping[str, Any] | None = None,
    *,
    kind: str = "PNG",
    saved: Saved = AS_USUAL,
    hashes: FileHashes = NO_HASHES,
    references: Sequence[bytes] = (),
) -> PictureFile:
    """A picture as a file.

    Args:
        image: The picture.
        info: `Result.info`, of this picture; or of a sheet, which has no request; None says
            nothing.
        kind: "PNG", "JPEG" or "WEBP".
        saved: How it is written.
        hashes: Of the files of weights, for A1111's text.
        references: The pictures that are embedded, of which `info` has the list; in PNG alone.

    Raises:
        RequestError: The picture is larger than the format can hold.
    """
    if info is None or saved.metadata == "none":
        return PictureFile(data=_ENCODERS[kind](image, _Words(), saved.quality))
    words = _words(info, hashes, saved.metadata, references)
    notes: tuple[str, ...] = ()
    if kind == "JPEG" and not words.fits_jpeg():
        words = _words(info, hashes, "minimal", ())
        notes = ("the request does not fit in a JPEG and was left out: write a PNG or WebP",)
    if references and kind != "PNG":
        notes = (*notes, f"a {kind} file holds no embedded references: write a PNG")
    return PictureFile(data=_ENCODERS[kind](image, words, saved.quality), notes=notes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Words:
    """What a file says: our JSON, A1111's text, the properties of XMP, embedded pictures."""

    ours: str | None = None
    parameters: str | None = None
    marks: Mapping[str, str] | None = None
    references: Sequence[bytes] = ()

    def xmp(self, *, with_request: bool) -> bytes | None:
        """The XMP packet."""
        if self.marks is None:
            return None
        extra = {REQUEST: self.ours} if with_request and self.ours else {}
        return packet({**self.marks, **extra}).encode()

    def exif(self) -> bytes:
        """EXIF, empty where there is nothing to say."""
        return b"" if self.marks is None else exif_bytes(self.parameters, f"ipa-mlx {__version__}")

    def fits_jpeg(self) -> bool:
        """Whether each part has room in one segment of a JPEG."""
        xmp = self.xmp(with_request=True) or b""
        return len(xmp) <= _MOST_XMP and len(self.exif()) <= _MOST_EXIF


def _words(
    info: Mapping[str, Any], hashes: FileHashes, amount: str, references: Sequence[bytes]
) -> _Words:
    request = info.get("request")
    is_one = isinstance(request, Mapping)
    marks = Marks(
        program=f"ipa-mlx {__version__}",
        version=__version__,
        model=model_name(info),
        is_edited=is_one and bool(request.get("image_sha256")),  # type: ignore[union-attr]
        prompt=_prompt(request) if is_one and amount == "full" else None,
    ).properties()
    if amount == "minimal":
        return _Words(marks=marks)
    known = {"file_hashes": hashes.to_json()} if hashes != NO_HASHES else {}
    return _Words(
        ours=json.dumps({**info, **known}, ensure_ascii=False),
        parameters=a1111_parameters(info, hashes).text() if is_one else None,
        marks=marks,
        references=references,
    )


def _prompt(request: Any) -> str | None:
    prompt = request.get("prompt")
    return prompt if isinstance(prompt, str) else None


def _png(image: Image.Image, words: _Words, _: int) -> bytes:
    chunk = PngInfo()
    if words.ours is not None:
        chunk.add_itxt(METADATA_KEY, words.ours)
    if words.parameters is not None:
        chunk.add_text(a1111.KEY, words.parameters)
    xmp = words.xmp(with_request=False)
    if xmp is not None:
        chunk.add_itxt(XMP_KEY, xmp.decode())
    for file in words.references:
        chunk.add(REFERENCE, file, after_idat=True)
    return _saved(image, "PNG", pnginfo=chunk)


def _jpeg(image: Image.Image, words: _Words, quality: int) -> bytes:
    options = {"quality": quality, "subsampling": 0, "optimize": True}
    return _saved(to_rgb(image), "JPEG", **options, **_segments(words))


def _webp(image: Image.Image, words: _Words, quality: int) -> bytes:
    if max(image.size) > _WEBP_SIDE:
        raise RequestError(
            "a WebP cannot be as large",
            found=f"{image.width} × {image.height}; the limit is {_WEBP_SIDE}",
            remedy="write a PNG",
        )
    lossless = quality == 100
    return _saved(image, "WEBP", quality=quality, lossless=lossless, method=4, **_segments(words))


def _segments(words: _Words) -> dict[str, bytes]:
    """EXIF and XMP, where there is something to say."""
    xmp, exif = words.xmp(with_request=True), words.exif()
    return {**({"xmp": xmp} if xmp else {}), **({"exif": exif} if exif else {})}


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


_ENCODERS = {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp}


def format_of(path: Path) -> str | None:
    """The format of a file by the end of its name; None if it is no picture's here."""
    return FORMATS.get(path.suffix.lower())
