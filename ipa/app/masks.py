"""`--mask` of the command line: which mask belongs to which image prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ipa.contract.errors import RequestError
from ipa.contract.image_prompt import ImagePrompt
from ipa.prepare.images import open_image

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
    for text in masks:
        number, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            number, file = "1" if len(masked) == 1 else "", text
        chosen = int(number) - 1 if number.isdecimal() else -1
        if not 0 <= chosen < len(masked) or masked[chosen].mask is not None:
            raise RequestError(
                "--mask must number one of the image prompts, each once",
                found=f"{text}, with {len(masked)} image prompts",
                remedy="write --mask 2=FILE for the second -i",
            )
        masked[chosen] = replace(masked[chosen], mask=open_image(file), mask_fit=fit)
    return tuple(masked)
