"""Options of how a picture is sampled and guided."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import typer

from ipa.errors import RequestError
from ipa.request.custom_steps import CustomSteps

_RANDOM, _DRAWN = ("random", "-1"), 2**32

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
GuidanceStartOption = Annotated[
    float, typer.Option(help="Where guidance begins, as a fraction of the steps: faster before it.")
]
GuidanceEndOption = Annotated[
    float, typer.Option(help="Where guidance ends, as a fraction of the steps: faster after it.")
]
CacheIntervalOption = Annotated[
    int,
    typer.Option(help="Compute every Nth step in full, others without the deep part: faster."),
]
CacheBranchOption = Annotated[
    int,
    typer.Option(help="Where that deep part begins: 0 is the fastest, more computes more."),
]
ForecastOption = Annotated[
    bool,
    typer.Option("--forecast", help="Compute some steps alone, and forecast the others: faster."),
]
ForecastWindowOption = Annotated[
    float, typer.Option(help="Of how many steps one is computed, at first.")
]
ForecastGrowthOption = Annotated[
    float, typer.Option(help="What each step that is computed adds to that.")
]
ForecastWarmupOption = Annotated[
    int, typer.Option(help="How many steps are computed before the first forecast.")
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        help="euler, unipc, dpmpp_2m_karras, lcm, …; also as A1111 says it: 'Euler a'.",
        show_default="the checkpoint's own",
    ),
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
SeedOption = Annotated[
    str,
    typer.Option("--seed", "-s", help="Says which noise: a number, or random; told after the run."),
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


def parse_seed(text: str) -> int:
    """A seed; `random`, or -1 as in other tools, draws one that is short enough to type.

    Raises:
        RequestError: It is no whole number.
    """
    if text.strip().lower() in _RANDOM:
        return secrets.randbelow(_DRAWN)
    try:
        return int(text)
    except ValueError as error:
        raise RequestError(
            "--seed takes a whole number, or random", found=repr(text)[:80], remedy="write --seed 7"
        ) from error


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise RequestError(
            f"{option} takes numbers with commas between them", found=repr(text)[:80]
        ) from error
