"""`--image` and its relatives of the command line: what a run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from ipa.app.session import open_picture
from ipa.request.custom_steps import CustomSteps

StartOption: TypeAlias = Annotated[
    Path | None, typer.Option(help="A picture to start from instead of noise alone.")
]
StartMaskOption: TypeAlias = Annotated[
    Path | None, typer.Option(help="Where to make it anew: white is; of the picture's size.")
]
StrengthOption: TypeAlias = Annotated[
    float, typer.Option(help="How far to go from --image: the share of the steps that is run.")
]
CropOption: TypeAlias = Annotated[
    int | None,
    typer.Option(help="Work on what --mask-image covers alone, and so many pixels around it."),
]
BlurOption: TypeAlias = Annotated[
    float, typer.Option(help="Soften --mask-image by so many pixels before.")
]
OverlayOption: TypeAlias = Annotated[
    bool, typer.Option("--overlay", help="Put the old pixels back where --mask-image is black.")
]


def opened(options: Mapping[str, Any]) -> dict[str, Any]:
    """Open the pictures that a run starts from; without the arguments that were not given.

    Raises:
        RequestError: A file is no picture.
    """
    given = {name: options[name] for name in ("image", "mask_image")}
    return {name: open_picture(file) for name, file in given.items() if file is not None}


def steps_done(arguments: Mapping[str, Any]) -> int:
    """The number of steps that a call runs, for a bar; at least one."""
    own = CustomSteps.of(arguments.get("timesteps"), arguments.get("sigmas"))
    steps = own.steps(arguments.get("num_inference_steps"))
    return max(1, int(steps * arguments["strength"])) if "image" in arguments else steps
