"""The options of `ipa-mlx generate` about what the image encoder is shown, and the way to look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from ipa.app.output import output_paths, png_name, save_png
from ipa.app.session import open_picture
from ipa.contract.encoder_options import NOISE
from ipa.contract.errors import RequestError
from ipa.contract.fit import Fit, check_fit
from ipa.contract.image_prompt import ImagePrompt, Negative
from ipa.pipeline import Pipeline

FitOption = Annotated[
    str | None,
    typer.Option(
        "--fit", help="center-crop, squash, pad, tile, top, bottom, left, right, or l,t,r,b"
    ),
]
SharpenOption = Annotated[float, typer.Option("--sharpen", help="Sharpen pictures, 0 to 1.")]
NegativeOption = Annotated[
    str | None,
    typer.Option(
        "--negative-image",
        help="A picture to steer away from; or noise; or noise:KIND:STRENGTH:BLUR of each -i.",
    ),
]
ShowOption = Annotated[
    Path | None,
    typer.Option("--show-reference", help="Write what the image encoder sees, as a .png."),
]


def check(show: Path | None, prompts: Sequence[ImagePrompt]) -> None:
    """Raise RequestError, before anything is computed, if what is seen cannot be shown."""
    if show is not None:
        output_paths(show, 1)
        if not prompts:
            raise RequestError("--show-reference needs a picture", remedy="add --image-prompt")


def apply(
    prompts: Sequence[ImagePrompt], fit: str | None, sharpen: float, negative: str | None
) -> tuple[ImagePrompt, ...]:
    """Image prompts with the options that hold for all of them."""
    if not prompts and (fit or sharpen or negative):
        raise RequestError(
            "--fit, --sharpen and --negative-image are about pictures",
            found="no picture",
            remedy="add one with --image-prompt",
        )
    away: Negative | None = None
    if negative is not None:
        noise = negative.split(":")[0] == NOISE and not Path(negative).exists()
        away = negative if noise else open_picture(negative)
    return tuple(
        replace(prompt, fit=parse_fit(fit), sharpen=sharpen, negative=away) for prompt in prompts
    )


def parse_fit(text: str | None) -> Fit | None:
    """A name, or four fractions with commas between them."""
    if text is None or "," not in text:
        return None if text is None else check_fit(text)
    try:
        return check_fit([float(side) for side in text.split(",")])
    except ValueError as error:
        raise RequestError(
            "a crop box is left,top,right,bottom", found=text, remedy="such as 0.1,0,0.9,1"
        ) from error


def save_views(
    pipe: Pipeline,
    prompts: Sequence[ImagePrompt],
    path: Path | None,
    profile: str | None = None,
) -> None:
    """Write what the encoder sees of all pictures, side by side."""
    if path is None:
        return
    views = [view for prompt in prompts for view in pipe.encoder_views(prompt, profile=profile)]
    width, height = sum(view.width for view in views), max(view.height for view in views)
    sheet = Image.new("RGB", (width, height))
    left = 0
    for view in views:
        sheet.paste(view, (left, 0))
        left += view.width
    save_png(sheet, png_name(path))
