"""`ipa-mlx engine`: the engine in a process of its own, for programs to speak to."""

from __future__ import annotations

from typing import Annotated

import typer

from ipa.app.terminal import explained
from ipa.engine.stdio.worker import main as serve_stdio
from ipa.errors import RequestError


def engine(
    stdio: Annotated[
        bool, typer.Option("--stdio", help="Speak JSON-RPC on standard input and output.")
    ] = False,
) -> None:
    """Be an engine for another program: JSON-RPC 2.0, one message a line."""
    with explained():
        if not stdio:
            raise RequestError(
                "an engine must be told how it is spoken to", remedy="ipa-mlx engine --stdio"
            )
        serve_stdio()
