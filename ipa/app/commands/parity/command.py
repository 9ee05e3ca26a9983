"""`ipa-mlx parity`: where two runs first differ, and by how much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ipa.app.claims import require_new
from ipa.app.help.examples import RECIPES, epilog
from ipa.app.help.panels import PanelledCommand
from ipa.app.options import autoencoder as decoding
from ipa.app.options import texts as words
from ipa.app.options.controls import ControlNetOption
from ipa.app.options.editing import steps_done
from ipa.app.options.loading import ModelOptions, check_arguments
from ipa.app.options.loras import LoraFolderOption, LoraOption
from ipa.app.options.model import (
    Adapters,
    Backend,
    DefaultScale,
    Device,
    Dtype,
    ImageEncoderOption,
    Json,
    Model,
    Offline,
    Overwrite,
    Quantize,
    Revision,
    Variant,
)
from ipa.app.terminal import cancel_on_interrupt, explained, progress_bar
from ipa.errors import NumericalError
from ipa.parity.capture.capture_file import check_target, write
from ipa.parity.capture.choice import Choice, StoredDtype
from ipa.parity.recording import capture as run_capture
from ipa.pipeline.pipeline import Pipeline
from ipa.pipeline.request_file import read_request

from .compare import compare_named
from .floors import AUTO, exact_runs, floor_precisions
from .show import (
    check_described,
    parse_steps,
    save_reports,
    show_capture,
    show_comparison,
    show_lost,
)

BAD = 1
"""The exit code of runs that differ by more than they may."""

PicturesOption = Annotated[
    list[Path] | None,
    typer.Option(help="Where to look for pictures that a PNG's request names; repeatable."),
]

parity = typer.Typer(help="Where two runs first differ, and by how much.", no_args_is_help=True)


@parity.command(cls=PanelledCommand, epilog=epilog(RECIPES["capture"]))
def capture(  # one parameter per option
    context: typer.Context,
    request: Annotated[
        Path,
        typer.Option("--request", "-r", help="A JSON file of arguments, or a PNG of generate."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .safetensors file.")],
    picture: PicturesOption = None,
    model: Model = "demo",
    adapter: Adapters = None,
    image_encoder: ImageEncoderOption = None,
    lora: LoraOption = None,
    lora_folder: LoraFolderOption = None,
    controlnet: ControlNetOption = None,
    textual_inversion: words.InversionOption = None,
    scale: DefaultScale = "1.0",
    vae: decoding.VaeOption = None,
    vae_memory: decoding.MemoryOption = None,
    stages: Annotated[
        list[str] | None,
        typer.Option("--stages", help="Of which names, such as 'step.*/unet.*'; repeatable."),
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Of which steps, such as 0,10,19.")] = None,
    sketch: Annotated[
        bool, typer.Option("--sketch", help="Keep a kilobyte of each stage: enough to compare.")
    ] = False,
    store: Annotated[
        StoredDtype, typer.Option(help="Keep arrays in float32 or float16.")
    ] = "float32",
    max_bytes: Annotated[
        int | None, typer.Option(help="Of the file; the largest stages become sketches first.")
    ] = None,
    floor: Annotated[
        str,
        typer.Option(
            help="Keep what rounding makes of each stage, for comparisons in these precisions "
            "(float32,float16): two more runs of each, and all stages in memory. auto is float32 "
            "for torch in float32, none nothing."
        ),
    ] = AUTO,
    backend: Backend = None,
    dtype: Dtype = None,
    device: Device = None,
    quantize: Quantize = None,
    overwrite: Overwrite = False,
    revision: Revision = None,
    variant: Variant = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Make a picture and record how: its stages, and what made them, in one file."""
    with explained(of_file=True), cancel_on_interrupt() as cancel:
        require_new(check_target(output))
        choice = Choice(
            patterns=tuple(stages or ("*",)),
            steps=parse_steps(steps),
            sketched=sketch,
            dtype=store,
            max_bytes=max_bytes,
        )
        asked = read_request(request, picture or ())
        show_lost(asked)
        arguments, precisions = asked.arguments, floor_precisions(floor)
        opening = ModelOptions.of(context.params).beside(asked.sources).as_made(asked.run)
        folder = opening.folder()
        check_arguments(dict(arguments), folder, opening.default_scale)
        pipe = opening.open(folder, arguments["controls"])

        def opened(backend: str, dtype: str, device: str | None) -> Pipeline:
            return opening.on(backend, dtype, device).open(folder, arguments["controls"])

        exact = exact_runs(precisions, pipe.info(), opened, arguments, cancel)
        with progress_bar(steps_done(asked.arguments)) as bar:
            bar.describe("capturing")
            made = run_capture(pipe, arguments, choice, bar, cancel, exact)
        check_described(asked, made)
        write(output, made)
    show_capture(made, output, as_json=as_json)
    if made.header.unfinished:
        with explained():
            raise NumericalError(
                f"{output} holds the run up to where it ended", found=made.header.unfinished
            )


@parity.command(cls=PanelledCommand, epilog=epilog(RECIPES["compare"]))
def compare(  # one parameter per option
    context: typer.Context,
    a: Annotated[str, typer.Argument(help="What is right: a capture, or mlx, torch, torch@cuda.")],
    b: Annotated[str, typer.Argument(help="In question: a capture, or mlx, mlx:float16, …")],
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="[PATTERN=]NUMBER", help="Largest relative L2; may be repeated."),
    ] = None,
    allow: Annotated[
        str | None, typer.Option(help="What may differ, by name: seed,weights.unet,…")
    ] = None,
    forced: Annotated[
        bool, typer.Option("--forced", help="Give every stage of B the inputs that A's had.")
    ] = False,
    descend: Annotated[
        bool,
        typer.Option(
            "--descend", help="As --forced, a part of the stages at a time: little memory."
        ),
    ] = False,
    swaps: Annotated[
        bool, typer.Option("--swaps", help="Run B with each component of A: what costs how much.")
    ] = False,
    floor: Annotated[
        bool,
        typer.Option(
            help="Take from a capture, or measure, what rounding alone makes of each stage."
        ),
    ] = True,
    request: Annotated[
        Path | None, typer.Option("--request", "-r", help="Of backends that run; see capture.")
    ] = None,
    picture: PicturesOption = None,
    model: Model = "demo",
    adapter: Adapters = None,
    image_encoder: ImageEncoderOption = None,
    lora: LoraOption = None,
    lora_folder: LoraFolderOption = None,
    controlnet: ControlNetOption = None,
    textual_inversion: words.InversionOption = None,
    scale: DefaultScale = "1.0",
    vae: decoding.VaeOption = None,
    vae_memory: decoding.MemoryOption = None,
    offline: Offline = False,
    to_html: Annotated[
        Path | None, typer.Option("--html", help="Write a report here, one page for a browser.")
    ] = None,
    to_json: Annotated[Path | None, typer.Option("--json", help="Write all numbers here.")] = None,
    to_junit: Annotated[
        Path | None, typer.Option("--junit", help="Write JUnit's XML here.")
    ] = None,
) -> None:
    """Say where B first departs from A. Exit code 1 if it does, 2 if they cannot be compared."""
    with explained(of_file=True):
        found = compare_named(a, b, context.params)
        save_reports(found, to_html, to_json, to_junit)
    show_comparison(found)
    if not found.ok:
        raise typer.Exit(BAD)
