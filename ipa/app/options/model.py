"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ImagePrompts = Annotated[
    list[str] | None,
    typer.Option(
        "--image-prompt",
        "-i",
        metavar="[ADAPTER=]FILE[:SCALE][@START-END]",
        help="A picture as a prompt; may be repeated.",
    ),
]
ImageEncoderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--image-encoder",
        metavar="PATH",
        help="What -a sees pictures with: a folder, or a file such as "
        "clip_vision/NAME.safetensors; once for all -a, or once for each. Without it, the one "
        "beside the adapter, in the model, or in ../clip_vision.",
    ),
]
DefaultScale = Annotated[
    str,
    typer.Option(help="Default weight of image prompts: a number, or JSON by block or by layer."),
]
LayerChoice = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        help="Layers that image prompts enter: style, layout, style+layout, ease in, …, or "
        "NUMBER:WEIGHT,…, or JSON with a factor for each name, and the boost of a precise type; "
        "once for all of them, or once for each -i.",
    ),
]
CurveChoice = Annotated[
    list[str] | None,
    typer.Option(
        "--curve",
        help="Their weight over the steps: fade_out, ease_in, …, or FRACTION:WEIGHT,…; once for "
        "all of them, or once for each -i.",
    ),
]
EmbedsScalingChoice = Annotated[
    list[str] | None,
    typer.Option(
        "--embeds-scaling",
        help="What their weight multiplies: 'V only', 'K+V', 'K+V w/ C penalty', 'K+mean(V) w/ C "
        "penalty'; once for all of them, or once for each -i.",
    ),
]
ProfileChoice = Annotated[
    str | None,
    typer.Option(
        "--profile",
        help="Read the request as tencent, diffusers or comfyui would; or as comfyui-as-meant.",
    ),
]
Steps = Annotated[int, typer.Option("--steps", "-n", help="Denoising steps.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Folder, file, hub id, or demo.")]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        "-a",
        metavar="[NAME=]SOURCE",
        help="An IP-Adapter: a file, or owner/repository/path on the hub; may be repeated.",
    ),
]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16")]
Device = Annotated[str | None, typer.Option(help="For torch: cpu, cuda, mps")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit.")]
Variant = Annotated[str | None, typer.Option(help="fp16 and the like.")]
Offline = Annotated[bool, typer.Option(help="Never ask the hub.")]
Backend = Annotated[str | None, typer.Option(help="mlx or torch", show_default="mlx if installed")]
Quantize = Annotated[int | None, typer.Option(help="For MLX: 4 or 8 bits for most matrices.")]
MemoryBudget = Annotated[
    str | None,
    typer.Option(
        "--memory-budget",
        metavar="GIB",
        help="Memory that a run may take, or auto: parts of the model come and go to keep to it; "
        "the picture stays the same.",
    ),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="[FILE=]NAME",
        help="Tensors to leave out that are in the model's file and not known, or in another FILE "
        "that is loaded: their names, with * for any characters; may be repeated.",
    ),
]
FromPicture = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="PICTURE",
        help="Begin with all options of the command that made this picture, or with what another "
        "program says in it; what else is typed replaces its own.",
    ),
]
PictureFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--picture", help="For --from: a file or folder with its pictures; may be repeated."
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace files that exist; else the name is numbered: NAME-2."
    ),
]
EventsOption = Annotated[
    str | None,
    typer.Option(
        "--events",
        metavar="json[:FD]",
        help="Progress, previews, result and errors as lines of JSON, on standard error or FD.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
