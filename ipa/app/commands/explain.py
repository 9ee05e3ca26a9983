"""`ipa-mlx explain`: the weights of image prompts as a heat map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ipa.app import sampling
from ipa.app.explain import explain_weights, prompts_to_explain, show_explanation
from ipa.app.generate import (
    parse_scale,
    with_weights,
)
from ipa.app.options import (
    CurveChoice,
    DefaultScale,
    ImagePrompts,
    Json,
    LayerChoice,
    Overwrite,
    ProfileChoice,
)
from ipa.app.terminal import explained
from ipa.contract.request import Request


def explain(
    image_prompt: ImagePrompts = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="As in generate; or sd15, sd2, sdxl without files.")
    ] = "demo",
    scale: DefaultScale = "1.0",
    layers: LayerChoice = None,
    curve: CurveChoice = None,
    profile: ProfileChoice = None,
    steps: sampling.StepsOption = None,
    timesteps: sampling.TimestepsOption = None,
    sigmas: sampling.SigmasOption = None,
    scheduler: sampling.SchedulerOption = None,
    timestep_spacing: sampling.SpacingOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw it too: a .png file.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Show the weight of image prompts at every layer and step, as generate would take it."""
    with explained():
        prompts = with_weights(prompts_to_explain(image_prompt or ()), layers or (), curve or ())
        request = Request(
            **sampling.step_arguments(steps, timesteps, sigmas),
            scheduler=scheduler,
            timestep_spacing=timestep_spacing,
            profile=profile,
        )
        found = explain_weights(model, prompts, image_prompt or (), parse_scale(scale), request)
        show_explanation(found, output, as_json=as_json)
