"""Writing pictures: checked before anything is computed, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipa.contract.errors import RequestError

METADATA_KEY = "ipa-mlx"
"""The PNG text chunk that holds `Result.info` as JSON: all that is needed to run it again."""


def output_paths(output: Path, count: int) -> list[Path]:
    """One path per picture: as given for one, with -1, -2, … before the suffix for several.

    Raises:
        RequestError: A path is no PNG, or cannot be written.
    """
    if output.suffix.lower() != ".png":
        raise RequestError(
            f"{output}: pictures are written as PNG, which keeps the request inside",
            found=f"suffix {output.suffix!r}",
            remedy="use a name that ends in .png",
        )
    check_writable(output)
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{number}") for number in range(1, count + 1)]


def check_writable(output: Path) -> None:
    """Raise RequestError, before anything is computed, where a file cannot be written."""
    if output.is_dir():
        raise RequestError(f"{output} is a folder", remedy="give a file name")
    folder = output.parent
    if not folder.is_dir():
        raise RequestError(f"{folder} does not exist", remedy="create the folder first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            writable = os.access(output, os.W_OK) if output.exists() else True
    except OSError as error:
        raise RequestError(f"{folder} cannot be written to", found=str(error)) from error
    if not writable:
        raise RequestError(f"{output} cannot be overwritten", remedy="choose another name")


def save_png(image: Image.Image, path: Path, info: dict[str, Any] | None = None) -> None:
    """Write a PNG under a temporary name, then rename it, so that no half-written file is left."""
    chunk = PngInfo()
    if info is not None:
        chunk.add_itxt(METADATA_KEY, json.dumps(info, ensure_ascii=False))
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".png")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            image.save(file, format="PNG", pnginfo=chunk)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
