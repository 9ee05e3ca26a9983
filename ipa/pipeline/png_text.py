"""The text in a PNG of ours, read without its pixels."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .description import METADATA_KEY


def png_text(path: Path) -> str | None:
    """Our text in a PNG; None if there is none.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: It cannot be read, or is no picture.
    """
    with Image.open(path) as image:
        text: str | None = getattr(image, "text", {}).get(METADATA_KEY)
    return text
