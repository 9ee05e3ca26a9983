"""Options for what turns latents into pictures: another VAE, tiles, previews."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ipa.app.preview_file import preview_path
from ipa.backend.vae_memory import VaeMemory
from ipa.errors import RequestError

VaeOption = Annotated[
    str | None, typer.Option("--vae", help="Another VAE: folder, file, or hub id.")
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--vae-memory",
        metavar="WAY",
        help="whole; strips (the same picture); tiles (another one); or a tile's side in pixels.",
        show_default="strips of very large pictures",
    ),
]
TilingOption = Annotated[
    bool | None,
    typer.Option(
        "--vae-tiling/--no-vae-tiling",
        help="The older spelling of --vae-memory tiles, or whole.",
        show_default=False,
    ),
]
TileOption = Annotated[
    int | None,
    typer.Option(
        "--vae-tile",
        metavar="PIXELS",
        help="The older spelling of --vae-memory PIXELS; also --vae-tiling PIXELS.",
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


def vae_memory(memory: str | None, tiling: bool | None, tile: int | None) -> VaeMemory:
    """What --vae-memory says, or its older spellings --vae-tiling and --vae-tile.

    Raises:
        RequestError: There is no such way, or two of the options disagree.
    """
    if memory is not None:
        if tile is not None or tiling is not None:
            raise RequestError(
                "--vae-memory says how a picture goes through the VAE",
                found="--vae-tiling or --vae-tile beside it",
                remedy="leave one of them out",
            )
        return int(memory) if memory.isdecimal() else cast(VaeMemory, memory)
    if tile is not None and tiling is False:
        raise RequestError(
            "--vae-tile is the size of tiles",
            found="--no-vae-tiling",
            remedy="leave one of them out",
        )
    if tile is not None or tiling is None:
        return tile
    return "tiles" if tiling else "whole"
