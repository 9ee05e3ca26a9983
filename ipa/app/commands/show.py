"""`ipa-mlx show`: how a picture of ours was made, for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ipa.app.options.model import Json
from ipa.app.provenance import Line, line_of, read_metadata
from ipa.app.request_options import PLAIN
from ipa.app.terminal import explained, print_json
from ipa.errors import RequestError
from ipa.request.request import Request

_OF_PROMPT = ("adapter", "file", "scale", "layers", "curve", "start", "end", "fit", "negative")


_SHOWN = ("width", "height", "seed", "num_images")  # otherwise


_USUAL = (None, "", 0.0, False, "plain", "cut", "default")
_DEFAULTS = Request()


def show_picture(metadata: Mapping[str, Any], line: Line | None) -> None:
    """Print how a picture was made, from its metadata, and the command that makes it again."""
    console = Console(highlight=False)
    for name, value in _facts(metadata):
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


def show(
    path: Annotated[
        Path, typer.Argument(metavar="PNG", help="A picture that generate or sweep wrote.")
    ],
    as_json: Json = False,
) -> None:
    """Say how a picture was made, and the command that makes it again."""
    with explained():
        metadata = read_metadata(path)
        if as_json:
            print_json(metadata)
            return
        try:
            show_picture(metadata, line_of(metadata))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RequestError(
                f"what {path} says of itself is damaged",
                found=f"{error!r:.120}",
                remedy="see all of it with --json",
            ) from error
