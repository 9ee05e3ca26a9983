"""The command line: `ipa-mlx demo | generate | convert | fetch | …`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ipa.app.commands.bench import bench
from ipa.app.commands.convert import convert
from ipa.app.commands.demo import run_demo, show_demo
from ipa.app.commands.demo_pictures import export_pictures, show_exported
from ipa.app.commands.doctor.command import doctor
from ipa.app.commands.engine import engine
from ipa.app.commands.explain import explain
from ipa.app.commands.fetch import run_fetch, show_catalogue
from ipa.app.commands.generate import generate
from ipa.app.commands.inspect import show_inspection
from ipa.app.commands.parity.command import parity
from ipa.app.commands.plan import plan
from ipa.app.commands.serve import mcp, serve
from ipa.app.commands.show import show
from ipa.app.commands.studio import studio
from ipa.app.commands.sweep import sweep
from ipa.app.commands.versions import show_versions
from ipa.app.help.examples import RECIPES, START, epilog
from ipa.app.help.panels import LenientCommand, PanelledCommand, Root
from ipa.app.options.model import Backend, Json, Offline, Overwrite, Revision, Variant
from ipa.pipeline.loading import accelerate as build_accelerator
from ipa.sources.models import resolve_file

from .command import Command
from .output import output_paths
from .terminal import cancel_on_interrupt, explained, print_json

app = typer.Typer(
    cls=Root,
    help="IP-Adapter for Apple MLX: pictures as prompts for Stable Diffusion.",
    no_args_is_help=True,
    epilog=epilog(START),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-v", help="Print versions and leave.")
    ] = False,
    verbose: Annotated[bool, typer.Option(help="With --version: devices and libraries.")] = False,
) -> None:
    if version:
        show_versions(verbose=verbose)
        raise typer.Exit


@app.command(cls=Command)
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the sheet goes.")] = Path(
        "ipa-mlx-demo.png"
    ),
    references: Annotated[int, typer.Option(min=2, max=8, help="Reference pictures.")] = 4,
    export: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the pictures of the examples there instead."),
    ] = None,
    backend: Backend = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Render reference pictures that the embedded model has never seen, as a labelled sheet."""
    with explained(), cancel_on_interrupt() as cancel:
        if export is not None:
            show_exported(export_pictures(export), as_json=as_json)
            return
        (target,) = output_paths(output, 1)
        report = run_demo(target, backend=backend, count=references, cancel=cancel)
    if as_json:
        print_json({**asdict(report), "sheet": str(report.sheet.resolve())})
        return
    show_demo(report)


app.command(cls=PanelledCommand, epilog=epilog(RECIPES["generate"]))(generate)
app.command(cls=PanelledCommand, epilog=epilog(RECIPES["sweep"]))(sweep)
app.command(cls=LenientCommand, epilog=epilog(RECIPES["explain"]))(explain)
app.command("plan", cls=PanelledCommand, epilog=epilog(RECIPES["plan"]))(plan)
app.command(cls=Command)(convert)
app.command(cls=Command)(doctor)
app.command(cls=PanelledCommand, epilog=epilog(RECIPES["bench"]))(bench)
app.command(cls=Command)(show)
app.command(cls=Command)(engine)
app.command(cls=Command)(serve)
app.command(cls=Command)(mcp)
app.command(cls=Command)(studio)
app.add_typer(parity, name="parity")


@app.command(cls=Command)
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
    revision: Revision = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Say what a file or folder is: family, variant, encoder needed, tensors, dtypes, bytes."""
    with explained():
        found = resolve_file(path, revision=revision, offline=offline)
        show_inspection(found, values=values, as_json=as_json)


@app.command(cls=Command)
def fetch(
    name: Annotated[
        str | None, typer.Argument(help="owner/name, a short name, or owner/name/folder/file.")
    ] = None,
    revision: Revision = None,
    variant: Variant = None,
    offline: Annotated[bool, typer.Option(help="Only say where it is in the cache.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a model, an adapter or any file of weights here; without a name, list what has one."""
    if name is None:
        show_catalogue(as_json=as_json)
        return
    with explained():
        found = run_fetch(name, revision=revision, variant=variant, offline=offline)
    if as_json:
        print_json({key: value and str(value) for key, value in asdict(found).items()})
        return
    typer.echo(found.path)
    if found.image_encoder is not None:
        typer.echo(found.image_encoder)


@app.command(cls=Command)
def accelerate() -> None:
    """On Linux: build a bridge to numpy's OpenBLAS, so that MLX computes faster on the CPU."""
    with explained():
        typer.echo(build_accelerator())


def main() -> None:
    """Run the command line; `ipa.app.entry` is what the `ipa-mlx` command begins with."""
    app()
