"""What a sweep showed: blocks of a sheet, suggested scales, and the whole of it as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from PIL import Image, ImageOps

from ipa.prepare.images.pictures import to_rgb
from ipa.request.pictures import Picture

from .likeness import Suggestion, suggest_scale
from .sheet import SheetBlock, SheetCell, SheetRow
from .sweep import REFERENCE, Axis, Cell, Made, Sweep

# How a sheet says a value; what is not here is said with the name of its axis.
_WORDS: Mapping[str, str] = {
    "guidance_scale": "guidance {}",
    "num_inference_steps": "{} steps",
    "prompt": "“{}”",
    "negative_prompt": "not “{}”",
    "start": "from {}",
    "end": "until {}",
    **dict.fromkeys(("layers", "curve", "scheduler", "adapter", REFERENCE), "{}"),
}
_NOTHING: Mapping[tuple[str, str], str] = {
    ("prompt", ""): "no words",
    ("layers", "none"): "all layers",
    ("curve", "none"): "constant",
}
# What a suggested scale is a mean over: it is to be good for all of them.
_SAMPLES = frozenset({"seed", REFERENCE, "prompt", "negative_prompt"})

Setting: TypeAlias = tuple[tuple[str, str], ...]
"""A cell's setting: names and labels on the axes that are neither the scale nor samples."""


def suggest_scales(sweep: Sweep, made: Sequence[Made]) -> dict[Setting, Suggestion]:
    """Suggested scales, by setting; none without an axis of scales or without likeness."""
    if "scale" not in {axis.name for axis in sweep.axes}:
        return {}
    measured: dict[Setting, list[tuple[float, float]]] = {}
    for entry in made:
        scale = sweep.value(entry.cell, "scale")
        if entry.likeness is not None and isinstance(scale, (int, float)):
            values = measured.setdefault(_setting(sweep, entry.cell), [])
            values.append((float(scale), entry.likeness))
    return {setting: suggest_scale(pairs) for setting, pairs in measured.items()}


def sweep_blocks(sweep: Sweep, made: Sequence[Made]) -> list[SheetBlock]:
    """The blocks of a sheet, one for each group of rows, references in front; gaps stay empty.

    Below each picture stands its likeness; it has a frame where its scale is the suggested one.
    """
    columns, rows = sweep.axes[-1], sweep.axes[-2] if len(sweep.axes) > 1 else None
    titles = [_title(columns, index) for index in range(len(columns.values))]
    is_beside = columns.name != REFERENCE and _picture(sweep.cells[0]) is not None
    cells, drawn, shown = sweep.cells, _drawn(sweep, made), None
    blocks: dict[tuple[int, ...], list[SheetRow]] = {}
    for start in range(0, len(cells), len(titles)):
        line = cells[start : start + len(titles)]
        first, row = line[0], [drawn[cell.place] for cell in line]
        block = blocks.setdefault(first.place[:-2], [])
        if columns.name == REFERENCE and start == 0:
            block.append(SheetRow("reference", [_reference(sweep, cell) for cell in line]))
        elif is_beside:
            row[0:0] = [_reference(sweep, first) if _picture(first) is not shown else None]
        shown = _picture(first)
        title = _title(rows, first.place[-2]) if rows and rows.name != REFERENCE else ""
        block.append(SheetRow(title, row))
    names = (["reference"] if is_beside else []) + titles
    return [
        SheetBlock(names, block, ", ".join(map(_title, sweep.axes, group)))
        for group, block in blocks.items()
    ]


def describe_sweep(sweep: Sweep, made: Sequence[Made]) -> dict[str, Any]:
    """A sweep, JSON-able: the axes, every cell with its own request, and suggestions."""
    about = dict(made[0].info) if made else {}
    for name in ("request", "timings_s", "peak_memory_bytes", "warnings"):
        about.pop(name, None)
    return {
        **about,
        "axes": {axis.name: list(axis.labels) for axis in sweep.axes},
        "cells": [
            {
                **sweep.plain(entry.cell),
                "likeness": None if entry.likeness is None else round(entry.likeness, 4),
                "request": entry.info["request"],
            }
            for entry in made
        ],
        "pictures": len({entry.cell.key for entry in made}),
        "suggested_scales": [
            dict(setting) | asdict(suggestion)
            for setting, suggestion in suggest_scales(sweep, made).items()
        ],
        "notes": suggestion_notes(sweep, made),
        "warnings": list(dict.fromkeys(t for entry in made for t in entry.info["warnings"])),
    }


def suggestion_notes(sweep: Sweep, made: Sequence[Made]) -> list[str]:
    """Notes: what likeness is, then each setting's suggested scale, or why there is none.

    Empty where likeness was not measured.
    """
    if all(entry.likeness is None for entry in made):
        return []
    notes = [
        "Below each picture: its likeness to the reference, the cosine in the space of the "
        "adapter's image encoder. What words ask for is not weighed."
    ]
    for setting, found in suggest_scales(sweep, made).items():
        where = ", ".join(_said(name, label) for name, label in setting)
        scale = "none" if found.scale is None else f"{found.scale:g}"
        over = f"means of {found.pictures} pictures" if found.pictures > 1 else "of one picture"
        head = f"Suggested scale{f' ({where})' if where else ''}: {scale}"
        notes.append(f"{head}, {found.reason}; {over}.")
    return notes


def _drawn(sweep: Sweep, made: Sequence[Made]) -> dict[tuple[int, ...], SheetCell | None]:
    """The cell at each place of the sheet."""
    suggested = suggest_scales(sweep, made)
    drawn: dict[tuple[int, ...], SheetCell | None] = {
        cell.place: SheetCell(None) for cell in sweep.cells
    }
    for entry in made:
        label = "" if entry.likeness is None else f"{entry.likeness:.2f}"
        suggestion = suggested.get(_setting(sweep, entry.cell))
        is_marked = (
            suggestion is not None
            and suggestion.scale is not None
            and sweep.value(entry.cell, "scale") == suggestion.scale
        )
        drawn[entry.cell.place] = SheetCell(entry.image, label, is_marked)
    return drawn


def _setting(sweep: Sweep, cell: Cell) -> Setting:
    labels = sweep.labels(cell)
    return tuple(pair for pair in labels.items() if pair[0] not in {*_SAMPLES, "scale"})


def _picture(cell: Cell) -> Picture | None:
    """The first picture of a varied prompt."""
    prompt = cell.image_prompt
    return prompt.images[0] if prompt is not None and prompt.images else None


def _reference(sweep: Sweep, cell: Cell) -> SheetCell | None:
    """All pictures of a varied prompt, side by side."""
    if cell.image_prompt is None or not cell.image_prompt.images:
        return None
    pictures = [to_rgb(picture) for picture in cell.image_prompt.images]
    height = max(picture.height for picture in pictures)
    pictures = [ImageOps.contain(picture, (10 * height, height)) for picture in pictures]
    joined = Image.new("RGB", (sum(picture.width for picture in pictures), height))
    left = 0
    for picture in pictures:
        joined.paste(picture, (left, 0))
        left += picture.width
    return SheetCell(joined, sweep.labels(cell).get(REFERENCE, ""))


def _title(axis: Axis, index: int) -> str:
    return _said(axis.name, axis.labels[index])


def _said(name: str, label: str) -> str:
    words = _NOTHING.get((name, label))
    if name == "layers" and ":" in label:
        words = f"layers {label}"
    return words or _WORDS.get(name, f"{name.replace('_', ' ')} {{}}").format(label)
