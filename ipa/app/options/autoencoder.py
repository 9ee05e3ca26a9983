"""Options for what turns latents into pictures: another VAE, tiles, previews."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ipa.app.preview_file import preview_path
from ipa.errors import RequestError
from ipa.pipeline.pipeline import Pipeline

VaeOption = Annotated[
    str | None, typer.Option("--vae", help="Another VAE: folder, file, or hub id.")
]
TilingOption = Annotated[
    bool | None,
    typer.Option(
        "--vae-tiling/--no-vae-tiling",
        help="Decode in tiles, to save memory.",
        show_default="of very large pictures alone",
    ),
]
TileOption = Annotated[
    int | None,
    typer.Option(
        "--vae-tile",
        metavar="PIXELS",
        help="In tiles of so many pixels; also written --vae-tiling PIXELS.",
    ),
]
PreviewOption = Annotated[
    Path | None,
    typer.Option("--preview", help="A .png file that shows each step while the picture is made."),
]
PreviewDecoderOption = Annotated[
    str | None,
    typer.Option(
        "--preview-decoder",
        help="A tiny VAE for it, such as madebyollin/taesd; without one, a pixel a latent.",
    ),
]


def preview_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """The call's arguments for --preview and --preview-decoder.

    Raises:
        RequestError: The file cannot be written, or there is a decoder and no file.
    """
    path, decoder = options["preview"], options["preview_decoder"]
    if path is None:
        if decoder is not None:
            raise RequestError("--preview-decoder needs a file", remedy="add --preview FILE.png")
        return {}
    preview_path(path)
    return {"preview": "latent" if decoder is None else "tiny"}


def prepare(
    pipe: Pipeline, tiling: bool | None, tile: int | None, decoder: str | None, *, offline: bool
) -> None:
    """Set --vae-tiling and --vae-tile, and load the decoder of --preview-decoder.

    Raises:
        RequestError: Tiles are asked for and forbidden.
    """
    if tile is not None and tiling is False:
        raise RequestError(
            "--vae-tile is the size of tiles",
            found="--no-vae-tiling",
            remedy="leave one of them out",
        )
    pipe.vae_tiling = tiling if tile is None else tile
    if decoder is not None:
        pipe.load_preview_decoder(decoder, offline=offline)
