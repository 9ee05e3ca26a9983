"""Pictures that a page brings: made upright, put on the desk's shelf, and kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from ipa.controls import edges
from ipa.errors import IpaError, PictureMissingError
from ipa.prepare.images.pictures import to_rgb
from ipa.request.pictures import picture_sha256
from ipa.serve.desk import Desk
from ipa.serve.images import encoded
from ipa.serve.pictures import CountedPictures

from .folder import Folder


class Pictures:
    """The pictures that others are made of: in memory for jobs, on disk for the next start.

    Args:
        desk: Whose shelf jobs take them from.
        folder: Where they are kept.
    """

    def __init__(self, desk: Desk, folder: Folder) -> None:
        self._desk, self._folder = desk, folder
        desk.shelf.behind = folder.kept

    def put(self, file: bytes) -> dict[str, Any]:
        """Take a picture's file; it is written anew, upright, without what else was in it.

        Returns:
            The hash of its pixels, its size, and whether it says more than its first frame.

        Raises:
            RequestError: It is no PNG, JPEG or WebP, too large, or cannot be kept.
        """
        image = CountedPictures(self._desk.shelf, self._desk.limits).open(file)
        notes = ["only its first frame is used"] if _is_animated(file) else []
        image = _without_idle_alpha(image)
        if "A" in image.getbands():
            notes.append("where it is transparent, the encoder sees what lies below")
        return self.keep(image) | {"notes": notes}

    def keep(self, image: Image.Image) -> dict[str, Any]:
        """Keep a picture of our own; as `put`."""
        clean = image.copy()
        clean.info = {}
        file = encoded(clean)
        sha256, _ = self._desk.shelf.put(file)
        self._folder.keep(sha256, file)
        return {"sha256": sha256, "width": image.width, "height": image.height}

    def file(self, sha256: str) -> bytes:
        """The PNG of a picture. Raises PictureMissingError if it is nowhere."""
        file = self._folder.kept(sha256)
        if file is None:
            raise PictureMissingError(
                "this picture is no longer here", found=sha256[:16], remedy="drop it again"
            )
        return file

    def open(self, sha256: str) -> Image.Image:
        """A picture, decoded. Raises PictureMissingError if it is nowhere."""
        return CountedPictures(self._desk.shelf, self._desk.limits).open(self.file(sha256))

    def found(self, sha256: str) -> dict[str, Any] | None:
        """The hash and size of a picture that is here and still what it was; else None."""
        try:
            image = self.open(sha256)
        except IpaError:
            return None
        if picture_sha256(image) != sha256:
            return None
        return {"sha256": sha256, "width": image.width, "height": image.height}

    def edges(self, sha256: str) -> dict[str, Any]:
        """Outlines of a picture, for a control; as `put`."""
        return self.keep(edges(to_rgb(self.open(sha256))))


def named(value: Any) -> Iterator[str]:
    """The hashes of all pictures that an object of JSON names by {"sha256": …}."""
    if isinstance(value, Mapping):
        if isinstance(value.get("sha256"), str):
            yield value["sha256"]
        for one in value.values():
            yield from named(one)
    elif isinstance(value, list):
        for one in value:
            yield from named(one)


def _is_animated(file: bytes) -> bool:
    """Whether the head of a PNG or WebP tells of more frames than one."""
    is_webp = file[8:12] == b"WEBP" and b"ANIM" in file[:64]
    return is_webp or (file[1:4] == b"PNG" and b"acTL" in file.partition(b"IDAT")[0])


def _without_idle_alpha(image: Image.Image) -> Image.Image:
    """A picture without transparency that hides nothing, as canvases write it."""
    if image.mode != "RGBA" or image.getchannel("A").getextrema() != (255, 255):
        return image
    return to_rgb(image)
