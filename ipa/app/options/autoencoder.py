"""Options for what turns latents into pictures: another VAE, tiles, previews."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ipa.app.preview_file import preview_path
from ipa.backend.vae_memory import VaeMemory
from ipa.errors import RequestError
from ipa.pipeline.pipeline import Pipeline

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


def prepare(pipe: Pipeline, options: Mapping[str, Any]) -> None:
    """Set --vae-memory or its older spellings, and load the decoder of --preview-decoder.

    Raises:
        RequestError: There is no such way, or two of the options disagree.
    """
    pipe.vae_memory = _vae_memory(options)
    if options["preview_decoder"] is not None:
        pipe.load_preview_decoder(options["preview_decoder"], offline=options["offline"])


def _vae_memory(options: Mapping[str, Any]) -> VaeMemory:
    memory, tile, tiling = (options[name] for name in ("vae_memory", "vae_tile", "vae_tiling"))
    if memory is not None:
        if tile is not None or tiling is not None:
            raise RequestError(
                "--vae-memory says how a picture goes through the VAE",
                found="--vae-tiling or --vae-tile beside it",
                remedy="leave one of them out",
            )
        return int(memory) if memory.isdecimal() else memory
    if tile is not None and tiling is False:
        raise RequestError(
            "--vae-tile is the size of tiles",
            found="--no-vae-tiling",
            remedy="leave one of them out",
        )
    if tile is not None or tiling is None:
        return tile  # type: ignore[no-any-return]
    return "tiles" if tiling else "whole"
