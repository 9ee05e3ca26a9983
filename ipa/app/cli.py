"""The command line: `ipa-mlx demo | generate | convert | fetch | …`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from ipa.app import references as look
from ipa.app.conversion import ConversionOptions, run_conversion
from ipa.app.demo import run_demo, show_demo
from ipa.app.explain import explain_weights, prompts_to_explain, show_explanation
from ipa.app.fetching import fetch as run_fetch
from ipa.app.fetching import show_catalogue
from ipa.app.generate import (
    check_arguments,
    load_adapters,
    parse_image_prompt,
    parse_scale,
    with_weights,
)
from ipa.app.generate import generate as run_generate
from ipa.app.inspection import show_inspection
from ipa.app.masks import MaskFitOption, MaskOption, with_masks
from ipa.app.options import CurveChoice, DefaultScale, ImagePrompts, LayerChoice, Steps
from ipa.app.output import output_paths
from ipa.app.show import cancel_on_interrupt
from ipa.app.terminal import explained, print_json, say
from ipa.app.versions import show_versions
from ipa.loading import accelerate as build_accelerator
from ipa.loading import choose_backend, load
from ipa.prepare.sources import resolve_file, resolve_model

app = typer.Typer(
    help="IP-Adapter for Apple MLX: pictures as prompts for Stable Diffusion.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Backend = Annotated[str | None, typer.Option(help="mlx or torch [default: mlx if installed]")]
Quantize = Annotated[int | None, typer.Option(help="For MLX: 4 or 8 bits for most matrices.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print versions and leave.")] = False,
    verbose: Annotated[bool, typer.Option(help="With --version: devices and libraries.")] = False,
) -> None:
    if version:
        show_versions(verbose=verbose)
        raise typer.Exit


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the sheet goes.")] = Path(
        "ipa-mlx-demo.png"
    ),
    references: Annotated[int, typer.Option(min=2, max=8, help="Reference pictures.")] = 4,
    backend: Backend = None,
    as_json: Json = False,
) -> None:
    """Render reference pictures that the embedded model has never seen, as a labelled sheet."""
    with explained(), cancel_on_interrupt() as cancel:
        output_paths(output, 1)
        report = run_demo(output, backend=backend, count=references, cancel=cancel)
    if as_json:
        print_json({**asdict(report), "sheet": str(report.sheet.resolve())})
        return
    show_demo(report)


@app.command()
def generate(  # one parameter per option
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png file.")] = Path("out.png"),
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text; may be left out.")] = "",
    negative_prompt: Annotated[str | None, typer.Option(help="What to steer away from.")] = None,
    image_prompt: ImagePrompts = None,
    fit: look.FitOption = None,
    sharpen: look.SharpenOption = 0.0,
    negative_image: look.NegativeOption = None,
    show_reference: look.ShowOption = None,
    mask: MaskOption = None,
    mask_fit: MaskFitOption = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Folder, file, hub id, or demo.")
    ] = "demo",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            "-a",
            metavar="[NAME=]SOURCE",
            help="An IP-Adapter: a file, or owner/repository/path on the hub; may be repeated.",
        ),
    ] = None,
    scale: DefaultScale = "1.0",
    layers: LayerChoice = None,
    curve: CurveChoice = None,
    width: Annotated[int | None, typer.Option(help="Pixels [default: the model's]")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels [default: the model's]")] = None,
    steps: Steps = 30,
    guidance_scale: Annotated[float, typer.Option("--guidance", "-g", help="1 is off.")] = 7.5,
    scheduler: Annotated[str | None, typer.Option(help="ddim, euler, dpmpp_2m_karras, …")] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", help="0 is a seed.")] = 0,
    num_images: Annotated[int, typer.Option(help="Pictures, with seeds seed, seed + 1, …")] = 1,
    backend: Backend = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16")] = None,
    device: Annotated[str | None, typer.Option(help="For torch: cpu, cuda, mps")] = None,
    quantize: Quantize = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    variant: Annotated[str | None, typer.Option(help="fp16 and the like.")] = None,
    offline: Annotated[bool, typer.Option(help="Never ask the hub.")] = False,
    as_json: Json = False,
) -> None:
    """Make a picture from words and pictures; the whole request is kept inside the PNG."""
    with explained(), cancel_on_interrupt() as cancel:
        output_paths(output, max(1, num_images))
        pictures = [parse_image_prompt(text) for text in image_prompt or ()]
        look.check(show_reference, pictures)
        default_scale = parse_scale(scale)
        arguments: dict[str, Any] = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "image_prompts": with_weights(
                with_masks(
                    look.apply(pictures, fit, sharpen, negative_image), mask or (), mask_fit
                ),
                layers or (),
                curve or (),
            ),
            "width": width,
            "height": height,
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "scheduler": scheduler,
            "seed": seed,
            "num_images": num_images,
        }
        chosen = choose_backend(backend)
        folder = resolve_model(model, revision=revision, variant=variant, offline=offline)
        check_arguments(arguments, folder, default_scale)
        pipe = load(folder, backend=chosen, dtype=dtype, device=device, quantize=quantize)
        load_adapters(pipe, adapter or (), default_scale, offline=offline)
        look.save_views(pipe, arguments["image_prompts"], show_reference)
        result, paths = run_generate(pipe, output, arguments, cancel)
    if as_json:
        print_json({"files": [str(path.resolve()) for path in paths], **result.info})
        return
    for warning in result.info["warnings"]:
        say("[yellow]warning:[/]", warning)
    for path in paths:
        typer.echo(path)


@app.command()
def explain(
    image_prompt: ImagePrompts = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="As in generate; or sd15, sd2, sdxl without files.")
    ] = "demo",
    scale: DefaultScale = "1.0",
    layers: LayerChoice = None,
    curve: CurveChoice = None,
    steps: Steps = 30,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw it too: a .png file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the weight of image prompts at every layer and step, as generate would take it."""
    with explained():
        prompts = with_weights(prompts_to_explain(image_prompt or ()), layers or (), curve or ())
        found = explain_weights(model, prompts, image_prompt or (), parse_scale(scale), steps)
        show_explanation(found, output, as_json=as_json)


@app.command()
def convert(  # one parameter per option
    source: Annotated[
        str,
        typer.Argument(help="A model (folder, file, hub id, demo), component, adapter or LoRA."),
    ],
    target: Annotated[
        Path, typer.Argument(help="The folder to make; for an adapter or a LoRA the file.")
    ],
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16 [default: as stored]")
    ] = None,
    to: Annotated[str, typer.Option(help="mlx, or diffusers for the way back.")] = "mlx",
    quantize: Quantize = None,
    verify: Annotated[bool, typer.Option(help="Read both again and compare every value.")] = False,
    base: Annotated[
        str | None,
        typer.Option(help="sd15, sd2 or sdxl, for a VAE or a LoRA that does not tell."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="For a file: a folder with the configs to take.")
    ] = None,
    prediction_type: Annotated[
        str | None, typer.Option(help="For a file that does not tell: epsilon or v_prediction.")
    ] = None,
    ema: Annotated[bool, typer.Option(help="A training's averaged weights of the UNet.")] = False,
    kind: Annotated[
        str | None, typer.Option(help="For an adapter that does not tell, such as faceid-plusv2.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    variant: Annotated[str | None, typer.Option(help="fp16 and the like.")] = None,
    offline: Annotated[bool, typer.Option(help="Never ask the hub.")] = False,
    as_json: Json = False,
) -> None:
    """Write anything as MLX loads it, whole or not at all; or back in PyTorch's layout."""
    options = ConversionOptions(
        dtype=dtype,
        layout=to,
        quantize=quantize,
        verify=verify,
        base=base,
        config=config,
        prediction_type=prediction_type,
        ema=ema,
        kind=kind,
        revision=revision,
        variant=variant,
        offline=offline,
    )
    with explained():
        done = run_conversion(source, target, options)
    if as_json:
        print_json({**asdict(done), "target": str(done.target.resolve())})
        return
    for note in done.notes:
        say("[yellow]note:[/]", note)
    proof = "" if done.verified is None else f", {done.verified:,} tensors verified"
    typer.echo(f"{done.target} ({done.kind}, {decimal(done.bytes)}{proof})")


@app.command()
def inspect(
    path: Annotated[
        str,
        typer.Argument(
            help="A model folder, a component, a weights file, or owner/name/folder/file."
        ),
    ],
    values: Annotated[
        bool, typer.Option(help="Read all values too: NaN, infinity, empty matrices.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    offline: Annotated[bool, typer.Option(help="Never ask the hub.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a file or folder is: family, variant, encoder needed, tensors, dtypes, bytes."""
    with explained():
        found = resolve_file(path, revision=revision, offline=offline)
        show_inspection(found, values=values, as_json=as_json)


@app.command()
def fetch(
    name: Annotated[
        str | None, typer.Argument(help="owner/name, a short name, or owner/name/folder/file.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    variant: Annotated[str | None, typer.Option(help="fp16 and the like.")] = None,
    offline: Annotated[bool, typer.Option(help="Only say where it is in the cache.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a model, an adapter or any file of weights here; without a name, list adapters."""
    if name is None:
        show_catalogue()
        return
    with explained():
        found = run_fetch(name, revision=revision, variant=variant, offline=offline)
    if as_json:
        print_json({key: value and str(value) for key, value in asdict(found).items()})
        return
    typer.echo(found.path)
    if found.image_encoder is not None:
        typer.echo(found.image_encoder)


@app.command()
def accelerate() -> None:
    """On Linux: build a bridge to numpy's OpenBLAS, so that MLX computes faster on the CPU."""
    with explained():
        typer.echo(build_accelerator())


def main() -> None:
    """Entry point of the `ipa-mlx` command."""
    app()
