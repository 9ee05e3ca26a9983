"""`--mask` of the command line: which mask belongs to which image prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ipa.app.session import open_picture
from ipa.contract.errors import RequestError
from ipa.contract.image_prompt import ImagePrompt

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
    """Which of `count` image prompts, from 0, each [NUMBER=]FILE of an option is about.

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
    """How to write an option that is about one of so many image prompts."""
    if count == 0:
        return "there is no -i: add one with --image-prompt"
    if count == 1:
        return f"there is one -i: write {option} FILE, once"
    return f"write {option} 2=FILE for the second -i"
