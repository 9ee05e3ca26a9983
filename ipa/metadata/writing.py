"""A picture with its request inside, as the bytes of a file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipa.pipeline.description import METADATA_KEY


def png_bytes(image: Image.Image, info: Mapping[str, Any] | None = None) -> bytes:
    """A picture as a PNG, with JSON-able `info` (`Result.info`) in its text, before the pixels."""
    chunk = PngInfo()
    if info is not None:
        chunk.add_itxt(METADATA_KEY, json.dumps(info, ensure_ascii=False))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=chunk)
    return file.getvalue()
