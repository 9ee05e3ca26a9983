"""`ipa-mlx sweep`: one request over a range of values, as a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from ipa.app.options import (
    controls as structure,
)
from ipa.app.options import (
    editing as edit,
)
from ipa.app.options import (
    pictures as look,
)
from ipa.app.options import (
    sweep as extras,
)
from ipa.app.options.loading import ModelOptions
from ipa.app.options.loras import LoraOption
from ipa.app.options.model import (
    Adapters,
    Backend,
    Device,
    Dtype,
    ImageEncoderOption,
    Json,
    MemoryBudget,
    Model,
    Offline,
    Overwrite,
    ProfileChoice,
    Quantize,
    Revision,
    Steps,
    Variant,
)
from ipa.app.options.parsing import parse_curve, parse_layers
from ipa.app.options.pictures import MaskFitOption, MaskOption, with_masks
from ipa.app.options.ranges import numbers
from ipa.app.options.sampling import SchedulerOption
from ipa.app.options.sweep import shared_suffix
from ipa.app.output import output_paths, save_png
from ipa.app.provenance import provenance
from ipa.app.session import open_picture
from ipa.app.terminal import cancel_on_interrupt, explained, print_json, progress_bar, say, warn
from ipa.errors import Cancelled, RequestError
from ipa.model.folder import ModelFolder
from ipa.pipeline.pipeline import Pipeline
from ipa.pipeline.plan import make_plan
from ipa.pipeline.snapshot import Snapshot
from ipa.prepare.scaling.lambdas import lambda_table
from ipa.prepare.text.prompts import open_tokenizers
from ipa.request.image_prompt import ImagePrompt
from ipa.request.request import Request
from ipa.sheets.sheet import draw_sheet
from ipa.sheets.sweep import REFERENCE, Axis, Made, Sweep, make_cells
from ipa.sheets.sweep_report import describe_sweep, sweep_blocks
from ipa.watching import CancelSignal

_WORDS: tuple[str, ...] = ("end", "layers", "curve", "scale")


SMALLEST, LARGEST = 128, 256  # of a cell's width, in pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """The options of a sweep: lists become axes where they have more than one entry.

    `references` are files, with a weight and a window as in generate if those are the same for all;
    scales, seeds, ends and guidance numbers and ranges (`ipa.app.options.ranges`).
    """

    references: Sequence[str]
    prompts: Sequence[str] = ()
    scales: str
    layers: Sequence[str] = ()
    curves: Sequence[str] = ()
    seeds: str = "0"
    ends: str = "1"
    guidance: str | None = None
    fit: str | None = None
    negative: str | None = None
    masks: Sequence[str] = ()
    mask_fit: str | None = None


def parse_sweep(options: SweepOptions, arguments: dict[str, Any]) -> Sweep:
    """Lists as axes, the longest-lasting first; single entries become part of every request.

    Raises:
        RequestError: There is no picture, a file is none, or a number or name is wrong.
    """
    if not options.references:
        raise RequestError("a sweep needs a picture", remedy="add one with --image-prompt")
    files, suffix = shared_suffix(options.references)
    pictures = [open_picture(file) for file in files]
    ends = [suffix["end"]] if "end" in suffix else numbers("--ends", options.ends, float)
    scales = [suffix["scale"]] if "scale" in suffix else numbers("--scales", options.scales, float)
    axes = [
        Axis("prompt", options.prompts or [""]),
        Axis("guidance_scale", _guidance(options.guidance)),
        Axis(REFERENCE, pictures, [file.stem for file in files]),
        Axis("seed", numbers("--seeds", options.seeds, int)),
        Axis("end", ends),
        Axis("layers", [parse_layers(text) for text in options.layers] or [None], options.layers),
        Axis("curve", [parse_curve(text) for text in options.curves] or [None], options.curves),
        Axis("scale", scales),
    ]
    single = {axis.name: axis.values[0] for axis in axes if len(axis.values) == 1}
    varied = [axis for axis in axes if len(axis.values) > 1]
    words: dict[str, Any] = {
        n: single[n] for n in ("end", "layers", "curve", "scale") if n in single
    }
    words |= {n: suffix[n] for n in ("adapter", "start") if n in suffix}
    prompts = look.apply([ImagePrompt(pictures[0], **words)], options.fit, 0.0, options.negative)
    (prompt,) = with_masks(prompts, options.masks, options.mask_fit)
    call: dict[str, Any] = {
        n: single[n] for n in ("prompt", "guidance_scale", "seed") if n in single
    }
    if not varied:
        raise RequestError(
            "there is nothing to sweep", found="one value of each", remedy="try --scales 0,0.5,1"
        )
    return Sweep(axes=varied, image_prompt=prompt, arguments={**arguments, **call})


def check_sweep(sweep: Sweep, model: ModelFolder) -> None:
    """Plan every cell without adapters, so that what is wrong is told before weights are read.

    Raises:
        RequestError: An argument is wrong for this model.
    """
    loaded = Snapshot(model=model, tokenizers=open_tokenizers(model))
    for cell in {cell.key: cell for cell in sweep.cells}.values():
        request = Request(**cell.arguments)
        plan = make_plan(replace(request, image_prompts=(), controls=(), loras=None), loaded)
        for prompt in request.image_prompts:
            lambda_table(prompt, 1.0, model.sites, len(plan.schedule.steps))


def with_adapters(sweep: Sweep, names: Sequence[str]) -> Sweep:
    """Each cell with each of several adapters, by the names that a pipeline has for them."""
    if len(names) < 2:
        return sweep
    return replace(sweep, axes=[Axis("adapter", names), *sweep.axes])


def run_sweep(
    pipe: Pipeline, sweep: Sweep, output: Path, title: str, cancel: CancelSignal
) -> dict[str, Any]:
    """Make the pictures and write the sheet, whole, with every request inside.

    A sweep that is cancelled leaves nothing under the name that was asked for, and what is finished
    in a sheet beside it, NAME-unfinished.png, with empty cells.

    Returns:
        What was made, JSON-able: `describe_sweep`, and `sheet`, the path.
    """
    steps = sweep.arguments["num_inference_steps"]
    made = list[Made]()
    with progress_bar(steps * sweep.count) as bar:
        bar.describe("sweeping")
        try:
            for entry in make_cells(pipe, sweep, on_progress=bar, cancel=cancel):
                made.append(entry)
                bar.describe(f"picture {len({m.cell.key for m in made})} of {sweep.count}")
        except Cancelled as error:
            if not made:
                raise
            unfinished = output.with_stem(f"{output.stem}-unfinished")
            unfinished, _ = _save(sweep, made, unfinished, title)
            raise Cancelled(
                error.what, found=f"{len(made)} of {len(sweep.cells)} cells, in {unfinished}"
            ) from error
    path, described = _save(sweep, made, output, title)
    return {"sheet": str(path.resolve()), **described}


def _save(
    sweep: Sweep, made: Sequence[Made], path: Path, title: str
) -> tuple[Path, dict[str, Any]]:
    described = {**describe_sweep(sweep, made), **provenance()}
    sheet = draw_sheet(
        sweep_blocks(sweep, made),
        title=title,
        notes=described["notes"],
        cell=_cell_size(made[0].image),
    )
    return save_png(sheet, path, described), described


def _cell_size(image: Image.Image) -> tuple[int, int]:
    width = min(max(image.width, SMALLEST), LARGEST)
    return width, max(1, round(width * image.height / image.width))


def sweep_title(sweep: Sweep, model: str, steps: int, scheduler: str | None) -> str:
    """The sheet's title: the settings that are the same in every cell."""
    prompt, seed = sweep.arguments.get("prompt"), sweep.arguments.get("seed")
    guidance = sweep.arguments.get("guidance_scale")
    parts = [
        f"“{prompt}”" if prompt else "",
        model,
        f"{steps} steps",
        scheduler or "",
        "" if guidance is None else f"guidance {guidance:g}",
        "" if seed is None else f"seed {seed}",
    ]
    return ", ".join(part for part in parts if part)


def _guidance(text: str | None) -> list[float | None]:
    """Parse guidance scales; None for the usual one of the model."""
    return [None] if text is None else [*numbers("--guidance", text, float)]


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
    model: Model = "demo",
    adapter: Adapters = None,
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
    dtype: Dtype = None,
    device: Device = None,
    quantize: Quantize = None,
    memory_budget: MemoryBudget = None,
    revision: Revision = None,
    variant: Variant = None,
    offline: Offline = False,
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
        opening = ModelOptions.of(given)
        folder = opening.folder()
        check_sweep(plan, folder)
        pipe = opening.open(folder, arguments["controls"])
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
