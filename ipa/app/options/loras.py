"""LoRA options of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ipa.checks import plain_number
from ipa.pipeline.pipeline import Pipeline

from .ignoring import Ignored

LoraOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="[NAME=]FILE[:SCALE]",
        help="A LoRA: a file, a folder, or owner/repository/path on the hub; may be repeated.",
    ),
]
LoraFolderOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Where LoRAs that a prompt names (<lora:name:0.8>, a1111) are looked for."),
]


@dataclass(frozen=True, slots=True)
class LoraChoice:
    """A parsed --lora."""

    source: str
    name: str | None
    scale: float


def parse_loras(texts: Sequence[str] | None) -> list[LoraChoice]:
    """Parse [NAME=]FILE[:SCALE] each. Raises RequestError for a scale that is not finite."""
    return [_parse(text) for text in texts or ()]


def load_loras(
    pipe: Pipeline, choices: Sequence[LoraChoice], ignored: Ignored, *, offline: bool
) -> None:
    """Load the chosen LoRAs, in order."""
    for choice in choices:
        pipe.load_lora(
            choice.source,
            name=choice.name,
            scale=choice.scale,
            ignore=ignored.of_file(choice.name, choice.source),
            offline=offline,
        )


def _parse(text: str) -> LoraChoice:
    if Path(text).exists():  # whatever its name looks like
        return LoraChoice(text, None, 1.0)
    rest, scale = text, 1.0
    head, colon, tail = text.rpartition(":")
    if colon and _is_number(tail):
        rest, scale = head, plain_number(float(tail), "the scale of --lora")
    name, equals, source = rest.partition("=")
    if not equals or Path(rest).exists():
        name, source = "", rest
    return LoraChoice(source, name or None, scale)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
