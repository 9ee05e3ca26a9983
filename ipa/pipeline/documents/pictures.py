"""Pictures of a request that is JSON: by path, by the hash of their pixels, or inline."""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from PIL import Image

from ipa.errors import RequestError, shown
from ipa.prepare.images.pictures import open_bytes, open_image
from ipa.request.pictures import picture_sha256

MAX_PICTURE_BYTES = 64 << 20
"""The bytes of one file of a picture that is given inline."""

_KEYS = ("path", "sha256", "data")


class Pictures(Protocol):
    """The protocol of where pictures come from."""

    def open(self, given: Any) -> Image.Image:
        """The picture that a value of JSON names. Raises RequestError if there is none."""

    def is_name(self, text: str) -> bool:
        """Whether a text names a picture, where it may also be the name of a noise."""


@dataclass(frozen=True, slots=True)
class PathPictures:
    """Pictures by their paths, relative to a folder."""

    folder: Path

    def open(self, given: Any) -> Image.Image:
        """See `Pictures.open`."""
        if not isinstance(given, str):
            raise RequestError("a picture of a request is a path", found=repr(given)[:80])
        return open_image(self.folder / given)

    def is_name(self, text: str) -> bool:
        """See `Pictures.is_name`."""
        return (self.folder / text).is_file() or Path(text).suffix != ""


class PictureShelf:
    """Pictures that were put aside, by the hash of their pixels: files' bytes, the oldest first.

    Safe from any thread.

    Attributes:
        behind: Asked for the file of a picture that is not here (any more); None if it has none.
    """

    def __init__(self, most_bytes: int = 512 << 20) -> None:
        self._most, self._files = most_bytes, OrderedDict[str, bytes]()
        self._lock = Lock()
        self.behind: Callable[[str], bytes | None] = lambda sha256: None

    def put(self, file: bytes) -> tuple[str, Image.Image]:
        """Keep a file; returns the hash of its pixels, and the picture.

        Raises:
            RequestError: It is no picture, or larger than all of the shelf.
        """
        image = open_bytes(file)
        sha256 = picture_sha256(image)
        if len(file) > self._most:
            raise RequestError(
                "a picture is too large to be kept",
                found=f"{len(file)} bytes",
                remedy=f"at most {self._most} bytes",
            )
        with self._lock:
            self._files[sha256] = file
            self._files.move_to_end(sha256)
            while sum(map(len, self._files.values())) > self._most:
                self._files.popitem(last=False)
        return sha256, image

    def file(self, sha256: str) -> bytes:
        """The file of a picture. Raises RequestError if it is not here (any more)."""
        if sha256 not in self._files and (file := self.behind(sha256)) is not None:
            self.put(file)
        with self._lock:
            if sha256 not in self._files:
                raise RequestError(
                    "a picture of the request is not here",
                    found=f"sha256 {sha256[:16]}…, among {len(self._files)}",
                    remedy="put it first; the oldest are forgotten",
                )
            self._files.move_to_end(sha256)
            return self._files[sha256]

    def __len__(self) -> int:
        return len(self._files)


@dataclass(frozen=True, slots=True)
class InlinePictures:
    """Pictures as messages name them: {"sha256": …} of a shelf, {"data": base64}, or a path.

    Attributes:
        shelf: Where those lie that were put before.
        allows_paths: Whether a path may be named, whole, as "…" or {"path": …}. For strangers
            (HTTP) it may not. Addresses are never fetched.
    """

    shelf: PictureShelf = field(default_factory=PictureShelf)
    allows_paths: bool = False

    def open(self, given: Any) -> Image.Image:
        """See `Pictures.open`."""
        return open_bytes(self.file(given))

    def is_name(self, text: str) -> bool:
        """See `Pictures.is_name`."""
        return self.allows_paths and Path(text).is_absolute()

    def file(self, given: Any) -> bytes:
        """The bytes of a picture's file."""
        if isinstance(given, str):
            given = {"path": given}
        if not isinstance(given, Mapping) or len(given.keys() & set(_KEYS)) != 1:
            raise RequestError(
                "a picture of a request names where it is",
                found=shown(given),
                remedy='{"sha256": …}, {"data": "base64…"}'
                + (' or {"path": "/…"}' if self.allows_paths else ""),
            )
        if "sha256" in given:
            return self.shelf.file(str(given["sha256"]))
        return self._path(given["path"]) if "path" in given else _decoded(given["data"])

    def _path(self, path: Any) -> bytes:
        if not self.allows_paths:
            raise RequestError(
                "a picture cannot be named by a path here",
                found=shown(path),
                remedy='send it: {"data": "base64…"}',
            )
        where = Path(path) if isinstance(path, str) else Path()
        if not where.is_absolute() or not where.is_file():
            raise RequestError(
                f"picture {shown(path)} cannot be read",
                found="no such file" if where.is_absolute() else "no whole path",
                remedy="name it from the root: /…",
            )
        if where.stat().st_size > MAX_PICTURE_BYTES:
            raise _too_large(where.stat().st_size)
        return where.read_bytes()


def _decoded(text: Any) -> bytes:
    """The bytes of base64, with or without the head of a data: address."""
    if not isinstance(text, str):
        raise RequestError("the data of a picture is a text in base64", found=shown(text))
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > MAX_PICTURE_BYTES // 3 * 4:
        raise _too_large(len(text) * 3 // 4)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            "the data of a picture is no base64", found=str(error)[:80], remedy="send its file"
        ) from error


def _too_large(size: int) -> RequestError:
    return RequestError(
        "a picture's file is too large",
        found=f"{size} bytes",
        remedy=f"at most {MAX_PICTURE_BYTES} bytes",
    )
