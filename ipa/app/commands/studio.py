"""`ipa-mlx studio`: a page for people, over the server of `ipa-mlx serve`."""

from __future__ import annotations

import logging
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ipa.app.options.model import Backend, Device, Dtype, Quantize
from ipa.app.options.offers import Adapters, ControlNets, Loras, Models
from ipa.app.terminal import explained, say
from ipa.errors import RequestError

from .serve import desk_of, given_options, load_first, needing, offers_of, parts_of

_PORTS = 20  # tried behind the one that is asked for


def studio(
    model: Models = None,
    adapter: Adapters = None,
    controlnet: ControlNets = None,
    lora: Loras = None,
    models: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Offer all that lies in it, as --folder of serve."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where pictures are kept.",
            show_default="ipa-mlx in your Pictures",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="If it is taken, the next free one; 0 is any.")
    ] = 7860,
    no_open: Annotated[bool, typer.Option("--no-open", help="Leave the browser alone.")] = False,
    backend: Backend = None,
    dtype: Dtype = None,
    device: Device = None,
    quantize: Quantize = None,
) -> None:
    """Open the studio: a page to make pictures from pictures, on this machine."""
    with explained():
        server = needing("ipa.serve.server", "serve")
        routes = needing("ipa.studio.routes", "serve")
        rooms = needing("ipa.studio.studio", "serve")
        folders = needing("ipa.studio.folder", "serve")
        parts = parts_of(adapter, controlnet, None, lora, None)
        options = given_options(backend=backend, dtype=dtype, device=device, quantize=quantize)
        offers = offers_of(model, parts, models, options)
        number = free_port(port)
        if number != port and port:
            say("[bold]port:[/]", f"{port} is taken, {number} is free")
        kept = folders.Folder(folder.expanduser() if folder else folders.usual_folder())
        desk = desk_of(offers)
        logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)
        made = routes.studio_routes(rooms.Studio(desk, kept))
        opened = server.Server(desk, port=number, further=[made])
        load_first(desk)
        opened.run(lambda: _begun(f"http://127.0.0.1:{opened.port}/", is_shown=not no_open))


def _begun(address: str, *, is_shown: bool) -> None:
    say("[bold]studio:[/]", f"{address} (Ctrl-C ends it)")
    if is_shown and not webbrowser.open(address):
        say("", "no browser could be opened: open this address yourself")


def free_port(first: int) -> int:
    """The first free port of this machine from a number on; 0 stays 0, which is any.

    Raises:
        RequestError: None of the next ones is free.
    """
    if first == 0:
        return 0
    for number in range(first, min(first + _PORTS, 65536)):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", number))
            except OSError:
                continue
            return number
    raise RequestError(
        "no port is free", found=f"{first} to {first + _PORTS - 1}", remedy="--port 0 takes any"
    )
