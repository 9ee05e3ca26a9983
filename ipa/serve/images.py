"""Pictures on their way out: anew from pixels, in the format that was asked for."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from ipa.metadata.writing import png_bytes

MEDIA: Mapping[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""The formats by name, with their media types."""


def encoded(
    image: Image.Image,
    kind: str = "png",
    info: Mapping[str, Any] | None = None,
    quality: int | None = None,
) -> bytes:
    """A picture as the bytes of a file.

    Args:
        image: The picture.
        kind: A name of `MEDIA`.
        info: Of a PNG, what is written beside the pixels (`Result.info`).
        quality: Of JPEG and WebP from 0 to 100; None is 95.
    """
    if kind == "png":
        return png_bytes(image, info)
    file = io.BytesIO()
    image.save(file, kind.upper(), quality=95 if quality is None else quality)
    return file.getvalue()


def as_base64(file: bytes) -> str:
    """Bytes as text, without a head."""
    return base64.b64encode(file).decode("ascii")
