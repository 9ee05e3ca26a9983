"""What a PNG of ours says of itself: its text, and no pixel."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .description import METADATA_KEY


def png_text(path: Path) -> str | None:
    """The text; None if the picture has none of ours.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: It cannot be read, or is no picture.
    """
    with Image.open(path) as image:
        text: str | None = getattr(image, "text", {}).get(METADATA_KEY)
    return text
