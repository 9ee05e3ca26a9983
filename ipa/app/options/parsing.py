"""Parsers of options: FILE:WEIGHT@START-END, NAME=VALUE, curves and layers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipa.app.session import open_picture
from ipa.errors import RequestError
from ipa.memory.budget import Budget, check_budget
from ipa.request.image_prompt import ImagePrompt
from ipa.request.scales import V_ONLY, Curve, Layers, Scale

from .suffixes import check_suffix

_WINDOW = re.compile(r"^(?P<rest>.+)@(?P<start>[0-9.]+)-(?P<end>[0-9.]+)$")


def parse_image_prompt(text: str) -> ImagePrompt:
    """Parse [ADAPTER=]FILE[:SCALE][@START-END] as an image prompt; the file is opened."""
    name, file, scale, options = split_reference(text)
    return ImagePrompt(open_picture(file), adapter=name, scale=scale, **options)


def parse_budget(text: str | None) -> Budget:
    """Parse --memory-budget: GiB, or auto. Raises RequestError for anything else."""
    number = None if text is None else _number(text)
    return check_budget(text if number is None else number)


def split_reference(text: str) -> tuple[str | None, Path, float | None, dict[str, Any]]:
    """Split [NAME=]FILE[:SCALE][@START-END]; of the window, start and end by name."""
    rest, options = text, dict[str, Any]()
    if Path(text).is_file():  # whatever its name looks like
        return None, Path(text), None, {}
    if window := _WINDOW.match(rest):
        rest = window["rest"]
        try:
            options = {"start": float(window["start"]), "end": float(window["end"])}
        except ValueError as error:
            raise RequestError("a window is two fractions", found=text) from error
    head, colon, tail = rest.rpartition(":")
    scale = _number(tail) if colon else None
    if scale is not None:
        rest = head
    name, equals, file = rest.partition("=")
    if not equals or Path(rest).exists():
        name, file = "", rest
    if not Path(file).is_file():
        check_suffix(text)
    return name or None, Path(file), scale, options


def with_weights(
    prompts: Sequence[ImagePrompt], layers: Sequence[str], curves: Sequence[str]
) -> tuple[ImagePrompt, ...]:
    """Image prompts with their layers and curves: one for all of them, or one for each in order."""
    per_prompt = zip(
        prompts,
        one_each("--layers", [parse_layers(text) for text in layers], len(prompts)),
        one_each("--curve", [parse_curve(text) for text in curves], len(prompts)),
        strict=True,
    )
    return tuple(replace(prompt, layers=by, curve=curve) for prompt, by, curve in per_prompt)


def with_scaling(prompts: Sequence[ImagePrompt], given: Sequence[str]) -> tuple[ImagePrompt, ...]:
    """Image prompts with their embeds_scaling: one for all of them, or one for each in order."""
    modes = one_each("--embeds-scaling", given or [V_ONLY] * len(prompts), len(prompts))
    pairs = zip(prompts, modes, strict=True)
    return tuple(replace(prompt, embeds_scaling=mode) for prompt, mode in pairs)


def one_each(option: str, given: Sequence[Any], count: int, of: str = "-i") -> Sequence[Any]:
    """One value for each of several, given once for all or once for each."""
    if len(given) == 1 and count:
        return [given[0]] * count
    if given and len(given) != count:
        raise RequestError(
            f"{option} is given once for all {of}, or once for each",
            found=f"{len(given)} for {count} {of}",
            remedy=f"write as many {option} as {of}",
        )
    return given or [None] * count


def parse_curve(text: str) -> Curve:
    """Parse a curve: a name, or points FRACTION:WEIGHT,FRACTION:WEIGHT,…"""
    if ":" not in text:
        return text
    points = [part.partition(":")[::2] for part in text.split(",")]
    try:
        return [(float(fraction), float(weight)) for fraction, weight in points]
    except ValueError as error:
        raise RequestError(
            "a curve is a name, or points fraction:weight",
            found=repr(text),
            remedy="write 0:1,0.5:0.2,1:0",
        ) from error


def parse_layers(text: str) -> Layers:
    """Parse layers: a name, NUMBER:WEIGHT,…, or factors by name as JSON, also a type's boost."""
    return _object(text, "layers are names, or") if text.lstrip().startswith("{") else text


def parse_scale(text: str) -> Scale:
    """Parse a scale: a number, or diffusers' nested dict as JSON."""
    number = _number(text)
    return _object(text, "a scale is a number or") if number is None else number


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"{what} a JSON object", found=text) from error
    if not isinstance(value, dict):
        raise RequestError(f"{what} a JSON object", found=text)
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
