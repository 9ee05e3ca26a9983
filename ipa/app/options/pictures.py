"""Options of pictures: references, masks, and the fit to an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from PIL import Image

from ipa.app.output import output_paths, png_name, save_png
from ipa.app.session import open_picture
from ipa.errors import RequestError
from ipa.pipeline.pipeline import Pipeline
from ipa.request.image_prompt import ImagePrompt, Negative
from ipa.request.picture_options import NOISE, Fit, check_fit

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
    """Raise RequestError, before anything is computed, if the encoder's views cannot be shown."""
    if show is not None:
        output_paths(show, 1)
        if not prompts:
            raise RequestError("--show-reference needs a picture", remedy="add --image-prompt")


def apply(
    prompts: Sequence[ImagePrompt], fit: str | None, sharpen: float, negative: str | None
) -> tuple[ImagePrompt, ...]:
    """Apply the options that hold for all image prompts."""
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
    """Parse a fit: a name, or four fractions with commas between them."""
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


MaskOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="[NUMBER=]FILE", help="Where the NUMBER-th -i acts: white is on."),
]


MaskFitOption: TypeAlias = Annotated[
    str | None, typer.Option(help="Masks of other aspects: stretch or crop.")
]


def with_masks(
    prompts: Sequence[ImagePrompt], masks: Sequence[str], fit: str | None
) -> tuple[ImagePrompt, ...]:
    """Image prompts with their masks.

    Args:
        prompts: In the order in which they were typed.
        masks: [NUMBER=]FILE, the number of a prompt counted from 1; without it, of the only prompt.
        fit: See `ImagePrompt.mask_fit`.

    Raises:
        RequestError: There is no such prompt, it has a mask, or the file is no picture.
    """
    masked = list(prompts)
    for number, file in numbered("--mask", masks, len(masked)):
        masked[number] = replace(masked[number], mask=open_picture(file), mask_fit=fit)
    return tuple(masked)


def numbered(option: str, texts: Sequence[str], count: int) -> list[tuple[int, str]]:
    """Files of [NUMBER=]FILE options by the image prompt, from 0, that each is about.

    Raises:
        RequestError: There is no such prompt, or two files for one.
    """
    found: list[tuple[int, str]] = []
    for text in texts:
        number, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            number, file = "1" if count == 1 else "", text
        chosen = int(number) - 1 if number.isdecimal() else -1
        if not 0 <= chosen < count or chosen in dict(found):
            raise RequestError(
                f"{option} must number one of the image prompts, each once",
                found=f"{text}, with {count} image prompts",
                remedy=numbering(option, count),
            )
        found.append((chosen, file))
    return found


def numbering(option: str, count: int) -> str:
    """How to write an option about one of so many image prompts, for messages."""
    if count == 0:
        return "there is no -i: add one with --image-prompt"
    if count == 1:
        return f"there is one -i: write {option} FILE, once"
    return f"write {option} 2=FILE for the second -i"


EncoderMaskOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="[NUMBER=]FILE", help="What is seen of the NUMBER-th -i: white is."),
]


EnhanceTilesOption: TypeAlias = Annotated[
    int, typer.Option(help="Look at N × N parts of pictures too, 1 to 16.")
]


EnhanceRatioOption: TypeAlias = Annotated[
    float, typer.Option(help="The weight of the whole beside its parts, 0 to 1.")
]


ContentOption: TypeAlias = Annotated[
    str | None, typer.Option(help="What pictures show, to be taken away: their style remains.")
]


ContentScaleOption: TypeAlias = Annotated[float, typer.Option(help="How much of it; 0 is none.")]


@dataclass(frozen=True, slots=True)
class Encoding:
    """Options that hold for all pictures of a call, by the names of `ImagePrompt`."""

    enhance_tiles: int
    enhance_ratio: float
    neg_content_prompt: str | None
    neg_content_scale: float

    @property
    def says_nothing(self) -> bool:
        """Whether every option was left out."""
        bare = self.neg_content_prompt is None and self.neg_content_scale == 1.0
        return bare and (self.enhance_tiles, self.enhance_ratio) == (1, 1.0)


def with_encoding(
    prompts: Sequence[ImagePrompt], masks: Sequence[str], encoding: Encoding
) -> tuple[ImagePrompt, ...]:
    """Image prompts with what is done to their pictures.

    Args:
        prompts: In the order in which they were typed.
        masks: [NUMBER=]FILE of masks on pictures, as `with_masks` numbers them.
        encoding: What holds for all of them.

    Raises:
        RequestError: There is no picture that an option could be about, or it is no option.
    """
    if not prompts and not encoding.says_nothing:
        raise RequestError(
            "--enhance-tiles, --enhance-ratio, --neg-content-prompt and --neg-content-scale are "
            "about pictures",
            found="no picture",
            remedy="add one with --image-prompt",
        )
    made = [
        replace(
            prompt,
            enhance_tiles=encoding.enhance_tiles,
            enhance_ratio=encoding.enhance_ratio,
            neg_content_prompt=encoding.neg_content_prompt,
            neg_content_scale=encoding.neg_content_scale,
        )
        for prompt in prompts
    ]
    for number, file in numbered("--encoder-mask", masks, len(made)):
        made[number] = replace(made[number], encoder_mask=open_picture(file))
    return tuple(made)
