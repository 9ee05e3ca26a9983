"""Options of how a picture is sampled and guided."""

from __future__ import annotations

from typing import Annotated

import typer

GuidanceOption = Annotated[
    float | None,
    typer.Option("--guidance", "-g", help="1 is off [default: the model's, 7.5 or SDXL's 5]"),
]
RescaleOption = Annotated[
    float,
    typer.Option(help="Against overexposure by strong guidance: 0 to 1, 0.7 being usual."),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        help="euler, unipc, dpmpp_2m_karras, lcm, … [default: the checkpoint's own]",
    ),
]
EtaOption = Annotated[
    float, typer.Option(help="Noise that ddim adds; for tcd its gamma, 0.3 being usual.")
]
SpacingOption = Annotated[
    str | None,
    typer.Option(
        help="leading, linspace, or trailing, for Lightning, Turbo and Hyper weights "
        "[default: the checkpoint's]",
    ),
]
