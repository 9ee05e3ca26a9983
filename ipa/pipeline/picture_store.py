"""Files in which the pictures of a description are looked for, by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ipa import demo
from ipa.errors import RequestError
from ipa.prepare.images.pictures import open_image
from ipa.request.masks import mask_values


@dataclass(frozen=True, slots=True)
class PictureStore:
    """Files, opened when a hash is looked for. The demo's references are always among them."""

    files: tuple[Path, ...] = ()

    @classmethod
    def of(cls, given: Iterable[Path]) -> PictureStore:
        """Files, and all files of folders."""
        found: list[Path] = []
        for path in given:
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            found += [file for file in inside if file.is_file() or inside == [path]]
        return cls(tuple(found))

    def picture(self, sha256: str) -> Image.Image:
        """The picture whose pixels have this hash. Raises RequestError if there is none."""
        return self._found(sha256, np.asarray)

    def mask(self, sha256: str) -> Image.Image:
        """The mask whose values have this hash. Raises RequestError if there is none."""
        return self._found(sha256, lambda image: mask_values(image, "a mask"))

    def _found(self, sha256: str, seen: Callable[[Image.Image], Any]) -> Image.Image:
        for file in (*self.files, *demo.references()):
            try:
                image = open_image(file)
                pixels = np.ascontiguousarray(seen(image))
            except RequestError:
                if not file.exists():
                    raise
                continue  # a folder may hold other files
            if hashlib.sha256(pixels.tobytes()).hexdigest() == sha256:
                return image
        raise RequestError(
            "a picture of the request is not at hand",
            found=f"sha256 {sha256[:16]}… among {len(self.files)} files",
            remedy="name it, or its folder, with --picture",
        )
