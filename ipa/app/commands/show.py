"""`ipa-mlx show`: what a picture's file says of how it was made, for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ipa.app.options.model import Json
from ipa.app.provenance import Line, line_of, our_metadata
from ipa.app.request_options import PLAIN
from ipa.app.terminal import explained, print_json
from ipa.errors import RequestError
from ipa.metadata.dialects.foreign import Foreign
from ipa.metadata.reading import Told, read_told
from ipa.request.request import Request

_OF_PROMPT = ("adapter", "file", "scale", "layers", "curve", "start", "end", "fit", "negative")


_SHOWN = ("width", "height", "seed", "num_images")  # otherwise


_USUAL = (None, "", 0.0, False, "plain", "cut", "default")
_DEFAULTS = Request()


def show_picture(
    metadata: Mapping[str, Any], line: Line | None, inside: Iterable[tuple[str, str]] = ()
) -> None:
    """Print how a picture was made, from its metadata, and the command that makes it again."""
    console = Console(highlight=False)
    for name, value in (*_facts(metadata), *inside):
        console.print(f"{name:20s}{value}", markup=False, soft_wrap=True)
    if line is None:
        return
    console.print("\nThe same again:", markup=False)
    console.print(line.shell(), markup=False, soft_wrap=True)


def _facts(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts worth printing, in words; values that are as always are left out."""
    if "ipa_mlx" in metadata:
        yield (
            "made by",
            f"ipa-mlx {metadata['ipa_mlx']} on {metadata.get('backend', 'an unknown backend')}",
        )
    yield "model", str(metadata.get("model"))
    yield from (("vae", str(metadata["vae"])) for _ in range(bool(metadata.get("vae"))))
    for axis, labels in dict(metadata.get("axes") or {}).items():
        yield f"varied: {axis}", ", ".join(map(str, labels))
    request = metadata.get("request") or {}
    if "width" in request:
        yield "size", f"{request['width']} × {request['height']}"
        yield "seed", str(request["seed"])
    for name in (*PLAIN, "num_inference_steps", "picture"):
        value = request.get(name)
        is_usual = value in _USUAL or value == getattr(_DEFAULTS, name, None)
        if name not in _SHOWN and not is_usual:
            yield name.replace("_", " "), str(value)
    for number, prompt in enumerate(request.get("image_prompts") or (), start=1):
        facts = {name: prompt.get(name) for name in _OF_PROMPT}
        words = [f"{name} {value}" for name, value in facts.items() if value not in (None, "")]
        yield f"image prompt {number}", ", ".join(words)
    for number, control in enumerate(request.get("controls") or (), start=1):
        yield f"control {number}", ", ".join(f"{k} {v}" for k, v in control.items() if v)
    for name, lora in dict(request.get("loras") or {}).items():
        yield f"LoRA {name}", f"scale {lora.get('scale')}"
    for file, sha256 in dict(metadata.get("made_with") or {}).items():
        yield "made with", f"{file} (sha256 {sha256[:16]}…)"
    for warning in metadata.get("warnings") or ():
        yield "warning", str(warning)


def show_foreign(told: Told) -> None:
    """Print what other programs say in a picture, and what a call of ours would lose of it."""
    console = Console(highlight=False)

    def line(name: str, value: object) -> None:
        console.print(f"{name:20s}{value}", markup=False, soft_wrap=True)

    for foreign in told.foreign:
        line("made by", foreign.tool)
        for name, value in foreign.arguments.items():
            line(name.replace("_", " "), value)
        for weights in foreign.weights:
            line("needs", weights.words())
        for words in foreign.lost:
            line("not restored", words)
    for name, value in told.marks.items():
        line(name.partition(":")[2], value)
    for words in told.unread:
        line("not understood", words)


def _inside(told: Told) -> Iterator[tuple[str, str]]:
    """What else lies in a picture of ours."""
    files = told.contents.references
    if files:
        yield "embedded", f"{len(files)} pictures and arrays, {sum(map(len, files))} bytes"
    others = [foreign.tool for foreign in told.foreign]
    if others:
        yield "also for", ", ".join(others)
    if told.marks:
        yield "marked", ", ".join(name.partition(":")[2] for name in told.marks)


def _foreign_json(foreign: Foreign) -> dict[str, Any]:
    return {
        "tool": foreign.tool,
        "arguments": dict(foreign.arguments),
        "weights": [weights.words() for weights in foreign.weights],
        "not_restored": list(foreign.lost),
    }


def show(
    path: Annotated[
        Path, typer.Argument(metavar="PICTURE", help="A PNG, JPEG or WebP, whoever made it.")
    ],
    as_json: Json = False,
) -> None:
    """Say how a picture was made, and the command that makes it again.

    Also of pictures of A1111, ComfyUI, InvokeAI, SwarmUI, Fooocus and Draw Things.
    """
    with explained():
        told = read_told(path)
        if told.ours is None and (told.foreign or told.marks or told.unread):
            if as_json:
                others = [_foreign_json(foreign) for foreign in told.foreign]
                print_json({"foreign": others, "marks": dict(told.marks)})
            else:
                show_foreign(told)
            return
        metadata = our_metadata(path, told)
        if as_json:
            print_json(metadata)
            return
        try:
            show_picture(metadata, line_of(metadata), _inside(told))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RequestError(
                f"what {path} says of itself is damaged",
                found=f"{error!r:.120}",
                remedy="see all of it with --json",
            ) from error
