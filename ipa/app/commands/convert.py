"""`ipa-mlx convert`: anything as MLX loads it, and the way back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from ipa.app.conversion import ConversionOptions, run_conversion
from ipa.app.options import IgnoreOption, Json, Quantize
from ipa.app.terminal import explained, print_json, say


def convert(  # one parameter per option
    source: Annotated[
        str,
        typer.Argument(help="A model (folder, file, hub id, demo), component, adapter or LoRA."),
    ],
    target: Annotated[
        Path, typer.Argument(help="The folder to make; for an adapter or a LoRA the file.")
    ],
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16", show_default="as stored")
    ] = None,
    to: Annotated[str, typer.Option(help="mlx, or diffusers for the way back.")] = "mlx",
    quantize: Quantize = None,
    verify: Annotated[
        bool, typer.Option(help="Open the result, read both again, compare every value.")
    ] = False,
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
    ignore: IgnoreOption = None,
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
        ignore=tuple(ignore or ()),
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
