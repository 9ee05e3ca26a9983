"""`--output`, `--metadata` and their kin: how pictures are written, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from ipa.errors import RequestError
from ipa.metadata.writing import AMOUNTS, Saved, format_of

OutputOption: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", help="A .png, .jpg or .webp file.")
]
MetadataOption: TypeAlias = Annotated[
    str,
    typer.Option(
        help="What pictures say of themselves: full; minimal, that they were generated and no word "
        "of yours; none."
    ),
]
NoMetadataOption: TypeAlias = Annotated[
    bool, typer.Option("--no-metadata", help="The same as --metadata none.")
]
QualityOption: TypeAlias = Annotated[
    int, typer.Option(help="Of .jpg and .webp, 1 to 100; .webp at 100 keeps every pixel.")
]
EmbedOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--embed-references",
        help="Put what the encoder sees, masks, start and control pictures into the PNG: it runs "
        "again alone. Whoever gets it can see them.",
    ),
]


def saved_as(options: Mapping[str, Any], output: Path) -> Saved:
    """How pictures are written.

    Raises:
        RequestError: An option is none, or has no effect.
    """
    metadata = "none" if options["no_metadata"] else options["metadata"]
    saved = Saved(metadata=metadata, quality=options["quality"])
    if not options["embed_references"]:
        return saved
    if metadata != AMOUNTS[0]:
        raise RequestError(
            "--embed-references puts more into a picture, and --metadata leaves it out",
            found=f"--metadata {metadata}",
            remedy="leave one of them out",
        )
    if format_of(output) not in (None, "PNG"):
        raise RequestError(
            "--embed-references is for PNG, which has room for pictures",
            found=output.name,
            remedy="use a name that ends in .png",
        )
    return saved
