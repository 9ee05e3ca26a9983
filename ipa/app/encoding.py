"""The options of `ipa-mlx generate` about what becomes of pictures before the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias

import typer

from ipa.app.masks import numbered
from ipa.app.session import open_picture
from ipa.contract.errors import RequestError
from ipa.contract.image_prompt import ImagePrompt

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
    """What holds for all pictures of a call, by the names of `ImagePrompt`."""

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
        masks: [NUMBER=]FILE of masks on pictures, as `ipa.app.masks.with_masks` numbers them.
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
