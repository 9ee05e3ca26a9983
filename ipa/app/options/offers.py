"""Options of what a server offers: models, and what may stand beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="[NAME=]SOURCE",
        help="A model that clients may name: as for generate; may be repeated. The first is what "
        "they mean who name none.",
        show_default="demo",
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        "-a",
        metavar="[NAME=]SOURCE",
        help="An IP-Adapter that they may name; may be repeated.",
        show_default="demo:base, for the demo",
    ),
]
ControlNets = Annotated[
    list[str] | None,
    typer.Option("--controlnet", metavar="[NAME=]SOURCE", help="A ControlNet likewise."),
]
T2IAdapters = Annotated[
    list[str] | None,
    typer.Option("--t2i-adapter", metavar="[NAME=]SOURCE", help="A T2I-Adapter likewise."),
]
Loras = Annotated[
    list[str] | None, typer.Option("--lora", metavar="[NAME=]SOURCE", help="A LoRA likewise.")
]
Inversions = Annotated[
    list[str] | None,
    typer.Option("--textual-inversion", metavar="[WORD=]SOURCE", help="A learned word likewise."),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="DIR",
        help="Offer all that lies in its folders models, adapters, controlnets, t2i_adapters, "
        "loras and textual_inversions; ComfyUI's and A1111's names of them do too.",
    ),
]
