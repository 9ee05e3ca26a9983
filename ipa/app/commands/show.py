"""`ipa-mlx show`: how a picture of ours was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ipa.app.options import Json
from ipa.app.provenance import line_of, read_metadata
from ipa.app.shown_picture import show_picture
from ipa.app.terminal import explained, print_json
from ipa.contract.errors import RequestError


def show(
    path: Annotated[
        Path, typer.Argument(metavar="PNG", help="A picture that generate or sweep wrote.")
    ],
    as_json: Json = False,
) -> None:
    """Say how a picture was made, and the command that makes it again."""
    with explained():
        told = read_metadata(path)
        if as_json:
            print_json(told)
            return
        try:
            show_picture(told, line_of(told))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RequestError(
                f"what {path} says of itself is damaged",
                found=f"{error!r:.120}",
                remedy="see all of it with --json",
            ) from error
