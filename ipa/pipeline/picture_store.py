"""Files in which the pictures of a description are looked for, by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ipa import demo
from ipa.errors import IpaError, RequestError
from ipa.prepare.images.pictures import open_bytes, open_image
from ipa.request.embeds import ImageEmbeds
from ipa.request.masks import mask_values
from ipa.request.pictures import sha256 as array_sha256
from ipa.request.references import FileKind, ReferenceFile

from .documents.array_files import read_array, read_embeds, read_face

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PictureStore:
    """Files, opened when a hash is looked for. The demo's references are always among them.

    Attributes:
        files: Those of a folder or that were named.
        embedded: Those in a picture of ours.
    """

    files: tuple[Path, ...] = ()
    embedded: tuple[ReferenceFile, ...] = ()

    @classmethod
    def of(cls, given: Iterable[Path], embedded: Iterable[ReferenceFile] = ()) -> PictureStore:
        """Files, and all files of folders."""
        found: list[Path] = []
        for path in given:
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            found += [file for file in inside if file.is_file() or inside == [path]]
        return cls(tuple(found), tuple(embedded))

    def picture(self, sha256: str) -> Image.Image:
        """The picture whose pixels have this hash. Raises RequestError if there is none."""
        return self._found("picture", sha256, np.asarray)

    def mask(self, sha256: str) -> Any:
        """The mask whose values have this hash. Raises RequestError if there is none."""
        exact = self.array(sha256)
        if exact is not None:
            return exact
        return self._found("mask", sha256, lambda image: mask_values(image, "a mask"))

    def start(self, sha256: str) -> Any:
        """A start picture, or latents. Raises RequestError if there is none."""
        exact = self.array(sha256)
        return self.picture(sha256) if exact is None else exact

    def array(self, sha256: str) -> Any:
        """The embedded array with this hash, or None."""
        return self._embedded("array", sha256, read_array, array_sha256)

    def face(self, sha256: str) -> Any:
        """The embedded face whose vector has this hash, or None."""
        return self._embedded(
            "face", sha256, read_face, lambda face: array_sha256(getattr(face, "embedding", face))
        )

    def embeds(self, sha256: str) -> ImageEmbeds | None:
        """The embeds with this hash, embedded or in a file; None if they are nowhere."""
        found = self._embedded("embeds", sha256, read_embeds, embeds_sha256)
        if found is not None:
            return found
        for file in (file for file in self.files if file.suffix == ".safetensors"):
            try:
                embeds = ImageEmbeds.load(file)
            except IpaError:
                continue  # a folder may hold other files
            if embeds_sha256(embeds) == sha256:
                return embeds
        return None

    def _embedded(
        self, kind: FileKind, sha256: str, read: Callable[[bytes], T], seen: Callable[[T], str]
    ) -> T | None:
        """What an embedded file holds. Raises RequestError if it is not what it says."""
        for file in self.embedded:
            if (file.kind, file.sha256) == (kind, sha256):
                value = read(file.data)
                if seen(value) != sha256:
                    raise RequestError("an embedded reference is damaged", found=f"another {kind}")
                return value
        return None

    def _found(
        self, kind: FileKind, sha256: str, seen: Callable[[Image.Image], Any]
    ) -> Image.Image:
        for image in self._pictures(kind, sha256):
            try:
                pixels = np.ascontiguousarray(seen(image))
            except RequestError:
                continue  # a folder may hold other files
            if hashlib.sha256(pixels.tobytes()).hexdigest() == sha256:
                return image
        raise RequestError(
            "a picture of the request is not at hand",
            found=f"sha256 {sha256[:16]}… among {len(self.files)} files",
            remedy="name it, or its folder, with --picture",
        )

    def _pictures(self, kind: FileKind, sha256: str) -> Iterator[Image.Image]:
        for embedded in self.embedded:
            if (embedded.kind, embedded.sha256) == (kind, sha256):
                yield open_bytes(embedded.data, "an embedded picture")
        for file in (*self.files, *demo.references()):
            try:
                yield open_image(file)
            except RequestError:
                if not file.exists():
                    raise


def embeds_sha256(embeds: ImageEmbeds) -> str:
    """What a description knows embeds by."""
    return array_sha256(np.concatenate([embeds.conditional, embeds.unconditional]))
