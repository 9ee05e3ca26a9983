"""Options of words: prompts, how they are read, learned words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ipa.errors import RequestError
from ipa.pipeline.pipeline import Pipeline
from ipa.request.request import Request

SecondOption = Annotated[
    str | None, typer.Option("--prompt-2", help="SDXL: the text for its second text encoder.")
]


SecondNegativeOption = Annotated[
    str | None, typer.Option("--negative-prompt-2", help="SDXL: likewise, to steer away from.")
]


ClipSkipOption = Annotated[
    int | None, typer.Option("--clip-skip", help="Last layers of the text encoder to leave out.")
]


LongPromptsOption = Annotated[
    str, typer.Option("--long-prompts", help="Texts over 75 tokens: cut, or chunks.")
]


SyntaxOption = Annotated[
    str,
    typer.Option(
        "--prompt-syntax",
        help="How (word:1.3) is read: plain, or as a weight in the way of a1111 or comfyui.",
    ),
]


InversionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--textual-inversion",
        metavar="[TOKEN[,TOKEN…]=]SOURCE",
        help="A learned word, or one for each embedding: a file, or owner/repository on the hub; "
        "may be repeated.",
    ),
]


CUT, PLAIN = Request().long_prompts, Request().prompt_syntax


def load_inversions(pipe: Pipeline, sources: Sequence[str] | None, *, offline: bool) -> None:
    """Load learned words, each [TOKEN[,TOKEN…]=]SOURCE."""
    for text in sources or ():
        token, equals, source = text.partition("=")
        if not equals or Path(text).exists():
            token, source = "", text
        words = token.split(",")
        pipe.load_textual_inversion(
            source, words if len(words) > 1 else token or None, offline=offline
        )


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
