"""`ipa-mlx sweep`: a labelled sheet over scales, layers, seeds and references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ipa.app import controls as structure
from ipa.app import editing as edit
from ipa.app import references as look
from ipa.app import sweep_extras as extras
from ipa.app.generate import load_adapters
from ipa.app.loras import LoraOption
from ipa.app.masks import MaskFitOption, MaskOption
from ipa.app.options import (
    Backend,
    ImageEncoderOption,
    Json,
    Overwrite,
    ProfileChoice,
    Quantize,
    Steps,
)
from ipa.app.output import output_paths
from ipa.app.sampling import SchedulerOption
from ipa.app.show import cancel_on_interrupt
from ipa.app.sweep import (
    SweepOptions,
    check_sweep,
    parse_sweep,
    run_sweep,
    sweep_title,
    with_adapters,
)
from ipa.app.terminal import explained, print_json, say, warn
from ipa.loading import choose_backend, load
from ipa.prepare.sources import resolve_model


def sweep(  # one parameter per option
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png file.")] = Path(
        "sweep.png"
    ),
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Text; may be repeated, or left out.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to steer away from.")] = None,
    image_prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--image-prompt",
            "-i",
            metavar="[ADAPTER=]FILE[:SCALE][@START-END]",
            help="A reference; may be repeated. What follows FILE is the same for all of them.",
        ),
    ] = None,
    fit: look.FitOption = None,
    negative_image: look.NegativeOption = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Folder, file, hub id, or demo.")
    ] = "demo",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter", "-a", metavar="[NAME=]SOURCE", help="As in generate; may be repeated."
        ),
    ] = None,
    image_encoder: ImageEncoderOption = None,
    scales: Annotated[
        str, typer.Option(help="Weights of the picture: 0,0.5,1 or 0..1 or 0..1..0.1.")
    ] = "0,0.25,0.5,0.75,1",
    layers: Annotated[
        list[str] | None, typer.Option(help="Layers, as in generate; may be repeated.")
    ] = None,
    curve: Annotated[
        list[str] | None, typer.Option(help="A curve, as in generate; may be repeated.")
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", "--seed", "-s", help="Seeds, such as 1,2,5 or 1-3.")
    ] = "0",
    ends: Annotated[
        str, typer.Option(help="Fractions of the steps after which the picture is off.")
    ] = "1",
    mask: MaskOption = None,
    mask_fit: MaskFitOption = None,
    lora: LoraOption = None,
    control: structure.ControlOption = None,
    control_preprocessor: structure.PreprocessorOption = None,
    guess_mode: structure.GuessOption = False,
    controlnet: structure.ControlNetOption = None,
    image: edit.StartOption = None,
    mask_image: edit.StartMaskOption = None,
    strength: edit.StrengthOption = 0.8,
    profile: ProfileChoice = None,
    guidance: Annotated[
        str | None,
        typer.Option("--guidance", "-g", help="Such as 3,7.5", show_default="the model's"),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels", show_default="the model's")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels", show_default="the model's")] = None,
    steps: Steps = 30,
    scheduler: SchedulerOption = None,
    backend: Backend = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16")] = None,
    device: Annotated[str | None, typer.Option(help="For torch: cpu, cuda, mps")] = None,
    quantize: Quantize = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    variant: Annotated[str | None, typer.Option(help="fp16 and the like.")] = None,
    offline: Annotated[bool, typer.Option(help="Never ask the hub.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a labelled sheet: what each scale, layer, seed and reference does to a picture.

    Every list with more than one entry is varied, from the same noise; every request is kept inside
    the PNG. Stopped with Ctrl-C, what is finished goes to NAME-unfinished.png.
    """
    given = context.params
    with explained(), cancel_on_interrupt() as cancel:
        (target,) = output_paths(output, 1)
        options = SweepOptions(
            references=image_prompt or (),
            prompts=prompt or (),
            scales=scales,
            layers=layers or (),
            curves=curve or (),
            seeds=seeds,
            ends=ends,
            guidance=guidance,
            fit=fit,
            negative=negative_image,
            masks=mask or (),
            mask_fit=mask_fit,
        )
        arguments = extras.call_arguments(given)
        plan = parse_sweep(options, arguments)
        chosen = choose_backend(backend)
        folder = resolve_model(model, revision=revision, variant=variant, offline=offline)
        check_sweep(plan, folder)
        pipe = load(folder, backend=chosen, dtype=dtype, device=device, quantize=quantize)
        extras.load_extras(pipe, given, arguments, offline=offline)
        load_adapters(pipe, adapter or (), 1.0, offline=offline, encoders=image_encoder or ())
        plan = with_adapters(plan, list(pipe.info()["adapters"]))
        say("making", f"{plan.count} pictures for {len(plan.cells)} cells, {steps} steps each")
        title = sweep_title(plan, pipe.info()["model"], steps, scheduler)
        done = run_sweep(pipe, plan, target, title, cancel)
    if as_json:
        print_json(done)
        return
    warn(done["warnings"])
    for note in done["notes"][1:]:
        say("[green]note:[/]", note)
    typer.echo(target.with_name(Path(done["sheet"]).name))
