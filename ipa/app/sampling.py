"""Options of how a picture is sampled and guided."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ipa.contract.custom_steps import CustomSteps
from ipa.contract.errors import RequestError

GuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--guidance", "-g", help="1 is off.", show_default="the model's: 7.5, or SDXL's 5"
    ),
]
RescaleOption = Annotated[
    float,
    typer.Option(help="Against overexposure by strong guidance: 0 to 1, 0.7 being usual."),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(help="euler, unipc, dpmpp_2m_karras, lcm, …", show_default="the checkpoint's own"),
]
EtaOption = Annotated[
    float, typer.Option(help="Noise that ddim adds; for tcd its gamma, 0.3 being usual.")
]
SpacingOption = Annotated[
    str | None,
    typer.Option(
        help="leading, linspace, or trailing, for Lightning, Turbo and Hyper weights.",
        show_default="the checkpoint's",
    ),
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", "-n", help="Denoising steps.", show_default="30")
]
TimestepsOption = Annotated[
    str | None,
    typer.Option(metavar="T,T,…", help="Timesteps to visit instead, falling: 999,850,736."),
]
SigmasOption = Annotated[
    str | None,
    typer.Option(metavar="S,S,…", help="Noise levels instead, for euler; the last is the end: 0."),
]


def step_arguments(steps: int | None, timesteps: str | None, sigmas: str | None) -> dict[str, Any]:
    """The arguments of a request that say which steps it has, and how many.

    Raises:
        RequestError: A list is none of numbers, or does not fit.
    """
    own = CustomSteps.of(_numbers("--timesteps", timesteps), _numbers("--sigmas", sigmas))
    return {
        "num_inference_steps": own.steps(steps),
        "timesteps": own.timesteps,
        "sigmas": own.sigmas,
    }


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise RequestError(
            f"{option} takes numbers with commas between them", found=repr(text)[:80]
        ) from error
