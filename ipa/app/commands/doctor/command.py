"""`ipa-mlx doctor`: the command and its options."""

from __future__ import annotations

from typing import Annotated

import typer

from ipa.app.options.model import Backend, Device, Json
from ipa.app.terminal import cancel_on_interrupt, explained, print_json, progress_bar

from .diagnosis import markdown, plain
from .examination import TOTAL, examine

NOT_HEALTHY = 1


def doctor(
    backend: Backend = None,
    device: Device = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Also time a model of SD1.5's size: 7 GiB of memory, 3 of disk, minutes."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether this machine computes what was recorded, and how fast; for an issue.

    The embedded demo is run in float32, held stage by stage to a run that is kept in this package,
    and in float16, held to float32. Exit code 1 where something is not well.
    """
    with explained(), cancel_on_interrupt() as cancel, progress_bar(TOTAL) as bar:
        found = examine(backend, device, bar, cancel, full=full)
    if as_json:
        print_json(plain(found))
    else:
        typer.echo(markdown(found))
    if not found.ok:
        raise typer.Exit(NOT_HEALTHY)
