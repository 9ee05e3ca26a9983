"""A picture of a result as a file that says how it was made."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ipa.checks import checked
from ipa.errors import RequestError
from ipa.files import write_whole
from ipa.metadata.ours import NO_HASHES, FileHashes
from ipa.metadata.writing import FORMATS, QUALITY, Saved, format_of, picture_file
from ipa.request.result import Result

from .one_picture import picture_info


@checked
def save_picture(
    result: Result,
    path: str | os.PathLike[str],
    number: int = 0,
    *,
    metadata: str = "full",
    quality: int = QUALITY,
    hashes: FileHashes | None = None,
) -> tuple[str, ...]:
    """Write one picture of a result, whole or not at all, as `ipa-mlx generate` writes it.

    `Pipeline.replay` runs the file again. With embed_references=True in the call a PNG holds all
    that this needs.

    Args:
        result: Of a call with output_type "pil".
        path: Ends in .png, .jpg, .jpeg or .webp; a file there is replaced.
        number: Which picture of the result, from 0.
        metadata: "full"; "minimal", that it was generated and no word of the request; or "none".
        quality: Of JPEG and WebP, 1 to 100; a WebP of 100 keeps every pixel.
        hashes: Of the files of weights, for other programs: `Pipeline.file_hashes()`.

    Returns:
        Notes on what the file does not hold.

    Raises:
        RequestError: An argument is wrong, or the file cannot be written.
    """
    where = Path(path)
    kind = format_of(where)
    if kind is None:
        raise RequestError(
            f"{where}: pictures are written as PNG, JPEG or WebP",
            found=f"suffix {where.suffix!r}",
            remedy=f"use a name that ends in {', '.join(FORMATS)}",
        )
    if isinstance(result.images, np.ndarray) or not 0 <= number < len(result.images):
        raise RequestError(
            "there is no such picture in the result",
            found=f"number {number}",
            remedy='a number from 0, of a call with output_type="pil"',
        )
    saved = Saved(metadata=metadata, quality=quality)
    info, references = picture_info(result, number)
    made = picture_file(
        result.images[number],
        info,
        kind=kind,
        saved=saved,
        hashes=hashes or NO_HASHES,
        references=references,
    )
    write_whole(where, made.data)
    missing = result.references.missing if result.references else ()
    return (*made.notes, *(f"not embedded: {words}" for words in missing))
