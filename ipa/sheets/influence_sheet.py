"""A sheet of overlays: what each image prompt added to a picture, by layers and by steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ipa.arrays import Floats
from ipa.model.sites import SECTIONS
from ipa.prepare.images.pictures import to_rgb
from ipa.request.image_prompt import ImagePrompt
from ipa.request.influence import Influence

from .mask_overlay import overlay

_CELL, _GAP, _LINE, _BAR = 160, 12, 20, 14
_TITLE, _TEXT = 14, 12  # font sizes
_INK, _PAPER, _FAINT = (24, 24, 28), (250, 250, 248), (120, 120, 120)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of overlays: what it is called, and what it averages over."""

    title: str
    choice: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of overlays: an image prompt, or one picture of several that it has."""

    title: str
    prompt: int
    picture: int | None
    references: tuple[Image.Image, ...]


def influence_sheet(
    influence: Influence, made: Image.Image, prompts: Sequence[ImagePrompt], image: int = 0
) -> Image.Image:
    """The picture that was made under heat maps, one column a prompt and one for each picture.

    The first line is the average over all layers and steps; the next are groups of layers, then
    thirds of the steps. One scale of colours serves them all; under each stands its mean share.

    Args:
        influence: What was measured.
        made: One of the pictures that were made.
        prompts: The image prompts, for their pictures.
        image: Which of the pictures it is.
    """
    rows, columns = _rows(influence), _columns(influence, prompts)
    maps = [
        [influence.map(c.prompt, c.picture, image=image, **row.choice) for c in columns]
        for row in rows
    ]
    texts = [influence.text(image=image, **row.choice) for row in rows]
    peak = max(1e-9, *(float(shares.max()) for line in maps for shares in line))
    scale = _CELL / max(made.size)
    width, height = (max(1, round(side * scale)) for side in made.size)
    small = made.resize((width, height), Image.Resampling.LANCZOS)
    step, crop = height + _LINE + _GAP, influence.crop(image)
    size = (_GAP + (1 + len(columns)) * (_CELL + _GAP), _GAP + (1 + len(rows)) * step + 3 * _LINE)
    sheet = Image.new("RGB", size, _PAPER)
    _put(sheet, 0, _GAP, [small], "made", height)
    for number, column in enumerate(columns, start=1):
        _put(sheet, number, _GAP, column.references, column.title, height)
    for line, (row, shares, text) in enumerate(zip(rows, maps, texts, strict=True), start=1):
        top = _GAP + line * step
        _write(sheet, (_GAP, top + height // 2 - _LINE), row.title, _TITLE)
        _write(sheet, (_GAP, top + height // 2), f"text {_percent(text)}", _TEXT, _FAINT)
        for number, one in enumerate(shares, start=1):
            _put(sheet, number, top, [overlay(small, one, peak, crop)], _percent(one), height)
    _legend(sheet, peak)
    return sheet


def _rows(influence: Influence) -> list[Row]:
    sections = {site.section for site in influence.sites}
    rows = [Row("all layers and steps", {})]
    rows += [Row(f"layers: {name}", {"sites": name}) for name in SECTIONS if name in sections]
    if influence.steps >= 3:
        for third in np.array_split(np.arange(influence.steps), 3):
            first, last = int(third[0]) + 1, int(third[-1]) + 1
            title = f"steps {first}-{last}" if last > first else f"step {first}"
            rows.append(Row(title, {"steps": third.tolist()}))
    return rows


def _columns(influence: Influence, prompts: Sequence[ImagePrompt]) -> list[Column]:
    columns = []
    for number, (count, prompt) in enumerate(zip(influence.pictures, prompts, strict=True)):
        shown = tuple(to_rgb(picture) for picture in prompt.images)
        title = f"image prompt {number + 1}"
        columns.append(Column(title, number, None, shown))
        for picture in range(count if count > 1 else 0):
            column = shown[picture : picture + 1] if len(shown) == count else ()
            columns.append(Column(f"{title}, picture {picture + 1}", number, picture, column))
    return columns


def _put(
    sheet: Image.Image,
    column: int,
    top: int,
    pictures: Sequence[Image.Image],
    label: str,
    height: int,
) -> None:
    """Draw pictures side by side in a cell, and a line under them."""
    left = _GAP + column * (_CELL + _GAP)
    for number, picture in enumerate(pictures):
        room = _CELL // len(pictures)
        small = to_rgb(picture)
        factor = min((room - 2 * (len(pictures) > 1)) / small.width, height / small.height)
        size = tuple(max(1, round(side * factor)) for side in small.size)
        small = small.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        sheet.paste(
            small,
            (left + number * room + (room - size[0]) // 2, top + (height - size[1]) // 2),
        )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT)
    draw.text((left + _CELL / 2, top + height + 3), label, fill=_INK, font=font, anchor="ma")


def _legend(sheet: Image.Image, peak: float) -> None:
    """A legend: the colours as they lie over grey, from no share to the largest, and words."""
    top = sheet.height - 3 * _LINE
    ramp = np.linspace(0.0, 1.0, _CELL, dtype=np.float32)[None]
    sheet.paste(overlay(Image.new("L", (_CELL, _BAR), 128), ramp, 1.0), (_GAP, top))
    _write(sheet, (_GAP + _CELL + 6, top), f"0 to {peak:.1%}", _TEXT)
    words = "share of the cross-attention's output; below each: mean"
    _write(sheet, (_GAP, top + _LINE), words, _TEXT)


def _percent(shares: Floats) -> str:
    return f"{float(shares.mean(dtype=np.float64)):.1%}"


def _write(
    sheet: Image.Image,
    at: tuple[int, int],
    text: str,
    size: int,
    fill: tuple[int, int, int] = _INK,
) -> None:
    ImageDraw.Draw(sheet).text(at, text, fill=fill, font=ImageFont.load_default(size))
