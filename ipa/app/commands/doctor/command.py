"""`ipa-mlx doctor`: the command and its options."""

from __future__ import annotations

from typing import Annotated

import typer

from ipa.app.options.model import Backend, Device, Json
from ipa.app.terminal import cancel_on_interrupt, explained, print_json, progress_bar
from ipa.errors import RequestError

from .bench import LIMIT, Wish
from .diagnosis import markdown, plain
from .examination import TOTAL, examine

NOT_HEALTHY = 1


def doctor(
    backend: Backend = None,
    device: Device = None,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench",
            "--full",
            help="Also time steps of SD1.5 and SDXL at their true sizes, with random weights: "
            "adapter off and on, memory, and what MLX can be told. Five minutes.",
        ),
    ] = False,
    limit: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="For all of it with --bench; what does not fit is left out."
        ),
    ] = LIMIT,
    small: Annotated[
        bool, typer.Option("--small", help="For --bench: the demo's sizes alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether this machine computes what was recorded, and how fast; for an issue.

    The embedded demo is run in float32, held stage by stage to a run that is kept in this package,
    and in float16, held to float32. Exit code 1 where something is not well.
    """
    with explained(), cancel_on_interrupt() as cancel, progress_bar(TOTAL) as bar:
        if not limit > 0:
            raise RequestError("limit must be more than 0 seconds", found=str(limit))
        wish = Wish(limit=limit, is_small=small) if bench or small else None
        found = examine(backend, device, bar, cancel, bench=wish)
    if as_json:
        print_json(plain(found))
    else:
        typer.echo(markdown(found))
    if not found.ok:
        raise typer.Exit(NOT_HEALTHY)
