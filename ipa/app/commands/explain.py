"""`ipa-mlx explain`: where and when an image prompt acts, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipa.app.options import sampling
from ipa.app.options.model import (
    CurveChoice,
    DefaultScale,
    ImagePrompts,
    Json,
    LayerChoice,
    Overwrite,
    ProfileChoice,
)
from ipa.app.options.parsing import parse_image_prompt, parse_scale, with_weights
from ipa.app.output import output_paths, save_png
from ipa.app.terminal import explained, print_json
from ipa.pipeline.explain import Explained, Explanation, explain_weights
from ipa.request.image_prompt import ImagePrompt
from ipa.request.request import Request
from ipa.sheets.heat_map import colour, heat_map

_BARS = "▁▂▃▄▅▆▇█"


_LABELS = 44  # columns of a terminal that are not cells


def prompts_to_explain(texts: Sequence[str]) -> list[ImagePrompt]:
    """The image prompts of the options; without any, one that stands for all."""
    return [parse_image_prompt(text) for text in texts] or [ImagePrompt(Image.new("L", (1, 1)))]


def show_explanation(found: Explanation, output: Path | None, *, as_json: bool) -> None:
    """Print the weights as bars, or as JSON; and draw them to a file if one is named."""
    if output is not None:
        (target,) = output_paths(output, 1)
        maps = [(prompt.heading, found.rows(prompt)) for prompt in found.prompts]
        output = save_png(heat_map(maps, found.steps), target, found.describe())
    if as_json:
        print_json(found.describe())
        return
    console = Console(highlight=False)
    built = f", built as {found.base}" if found.base else ""
    console.print(f"{found.model}: {len(found.sites)} cross-attentions{built}", markup=False)
    for prompt in found.prompts:
        console.print(_bars(found, prompt, console.width))
    if output is not None:
        console.print(str(output.resolve()), markup=False, soft_wrap=True)


def _bars(found: Explanation, prompt: Explained, width: int) -> Table:
    """One line per row of weights: its place, a bar for each step, and the largest and least λ."""
    stride = math.ceil(found.steps / max(1, width - _LABELS))
    shown = "" if stride == 1 else f", one of {stride} shown"
    table = Table(box=None, title=Text(prompt.title, style="bold"), title_justify="left")
    table.caption, table.caption_justify = prompt.caption, "left"
    table.add_column("#", justify="right")
    table.add_column("layer", no_wrap=True)
    table.add_column("sites", no_wrap=True)
    table.add_column(f"λ over {found.steps} steps{shown}", no_wrap=True)
    table.add_column("least", justify="right")
    table.add_column("most", justify="right")
    peak = float(np.abs(prompt.table).max())
    for row in found.rows(prompt):
        bars = Text.assemble(*(_bar(float(value), peak) for value in row.values[::stride]))
        ends = (f"{end:.3g}" for end in (row.values.min(), row.values.max()))
        table.add_row(str(row.order), row.place, row.sites, bars, *ends)
    return table


def _bar(value: float, peak: float) -> tuple[str, str]:
    """A step's λ as a character: as high as |λ|, with its style; a dot where the prompt is off."""
    if value == 0.0:
        return "·", "dim"
    height = math.ceil(abs(value) / peak * len(_BARS))
    red, green, blue = colour(value / peak)
    return _BARS[max(0, height - 1)], f"rgb({red},{green},{blue})"


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
