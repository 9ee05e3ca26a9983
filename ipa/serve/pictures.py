"""Pictures of one request: sent with it or put before, counted, and never fetched from anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from PIL import Image

from ipa.errors import RequestError, shown
from ipa.pipeline.documents.pictures import InlinePictures, PictureShelf
from ipa.prepare.images.pictures import open_bytes

from .limits import Limits

FORMATS = ("PNG", "JPEG", "MPO", "WEBP")
"""The formats that are taken from strangers; MPO is what telephones call a JPEG with a second."""

_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_SHORTEST = 64  # characters of a picture's base64; names of noise are shorter


@dataclass(frozen=True, slots=True)
class Derived:
    """A picture that is to be made of another one, such as a mask of its transparency."""

    given: Given
    work: Callable[[Image.Image], Image.Image]


Given: TypeAlias = "str | bytes | dict[str, Any] | Image.Image | Derived"
"""A picture as dialects give it: base64, a file, {"sha256": …} or {"data": …}, one in memory."""


class CountedPictures:
    """The pictures of one request, within its limits.

    Args:
        shelf: Those that were put before.
        limits: How many, and how many pixels in all.
    """

    def __init__(self, shelf: PictureShelf, limits: Limits) -> None:
        self._inline = InlinePictures(shelf)
        self._limits = limits
        self._count, self._pixels = 0, 0

    def open(self, given: Any) -> Image.Image:
        """The picture, decoded.

        Raises:
            RequestError: It is none, one too many, or too large; or it is an address.
        """
        if isinstance(given, Derived):
            return given.work(self.open(given.given))
        self._count += 1
        if self._count > self._limits.pictures:
            raise RequestError(
                "a request has too many pictures", remedy=f"at most {self._limits.pictures}"
            )
        if isinstance(given, Image.Image):
            return given
        image = open_bytes(
            self._file(given), formats=FORMATS, most_pixels=self._limits.pixels - self._pixels
        )
        self._pixels += image.width * image.height
        return image

    def is_name(self, text: str) -> bool:
        """Whether a text is a picture, where it may also be the name of a noise."""
        return len(text) >= _SHORTEST or text.startswith("data:") or bool(_ADDRESS.match(text))

    def _file(self, given: Any) -> bytes:
        if isinstance(given, bytes):
            return given
        data = given.get("data") if isinstance(given, dict) else given
        if isinstance(data, str) and _ADDRESS.match(data):
            raise RequestError(
                "pictures are never fetched from an address",
                found=shown(data),
                remedy="send the picture itself, in base64",
            )
        return self._inline.file({"data": given} if isinstance(given, str) else given)
