"""`ipa-mlx sweep`: options become axes, every combination a picture, all of them one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ipa.app import references as look
from ipa.app.generate import parse_curve, parse_layers
from ipa.app.masks import with_masks
from ipa.app.output import save_png
from ipa.app.provenance import provenance
from ipa.app.ranges import numbers
from ipa.app.session import open_picture
from ipa.app.show import progress_bar
from ipa.app.sweep_extras import shared_suffix
from ipa.contract.errors import Cancelled, RequestError
from ipa.contract.image_prompt import ImagePrompt
from ipa.contract.model import ModelFolder
from ipa.contract.request import Request
from ipa.pipeline import Pipeline
from ipa.plan import make_plan
from ipa.prepare.lambdas import lambda_table
from ipa.prepare.texts import open_tokenizers
from ipa.registry import Snapshot
from ipa.run import CancelSignal
from ipa.sheet import draw_sheet
from ipa.sweep import REFERENCE, Axis, Made, Sweep, make_cells
from ipa.sweep_report import describe_sweep, sweep_blocks

_WORDS: tuple[str, ...] = ("end", "layers", "curve", "scale")
SMALLEST, LARGEST = 128, 256  # of a cell's width, in pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """What was typed: lists become axes where they have more than one entry.

    `references` are files, with a weight and a window as in generate if those are the same for all;
    scales, seeds, ends and guidance numbers and ranges (`ipa.app.ranges`).
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
    files, own = shared_suffix(options.references)
    pictures = [open_picture(file) for file in files]
    ends = [own["end"]] if "end" in own else numbers("--ends", options.ends, float)
    scales = [own["scale"]] if "scale" in own else numbers("--scales", options.scales, float)
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
    words |= {n: own[n] for n in ("adapter", "start") if n in own}
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
            beside = output.with_stem(f"{output.stem}-unfinished")
            beside, _ = _save(sweep, made, beside, title)
            raise Cancelled(
                error.what, found=f"{len(made)} of {len(sweep.cells)} cells, in {beside}"
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
    """What is the same in every cell."""
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
    """Numbers, or None for what is usual for the model."""
    return [None] if text is None else [*numbers("--guidance", text, float)]
