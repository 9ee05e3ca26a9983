"""A prompt without its option: `ipa-mlx generate "a heart"`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ipa.contract.errors import RequestError

TextArgument: TypeAlias = Annotated[
    list[str] | None, typer.Argument(metavar="PROMPT", help="The text, as --prompt.")
]


def one_prompt(words: Sequence[str] | None, prompt: str) -> str:
    """The prompt, typed with its option or without.

    Raises:
        RequestError: It is typed both ways, or what stands alone is a file.
    """
    text = " ".join(words or ())
    if text and prompt:
        raise RequestError(
            "there are two prompts",
            found=f"{text!r} and --prompt {prompt!r}",
            remedy="write one of them",
        )
    for word in words or ():
        if Path(word).is_file():
            raise RequestError(
                f"{word} is a file that no option names", remedy=f"write -i {word} for a picture"
            )
    return text or prompt
