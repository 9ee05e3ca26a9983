"""Contact sheets: a labelled grid of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_CELL, _GAP, _LABEL = 128, 8, 22
_TITLE, _TEXT = 13, 12  # font sizes
_INK, _PAPER = (24, 24, 28), (250, 250, 248)


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str],
    labels: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """Rows of pictures under column titles, with a line under each if `labels` are given."""
    line = _LABEL if labels is not None else 0
    width = _GAP + len(columns) * (_CELL + _GAP)
    height = _GAP + _LABEL + len(rows) * (_CELL + line + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        _centred(draw, title, column, _GAP, size=_TITLE)
    for number, row in enumerate(rows):
        top = _GAP + _LABEL + number * (_CELL + line + _GAP)
        for column, picture in enumerate(row):
            left = _GAP + column * (_CELL + _GAP)
            sheet.paste(
                picture.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS), (left, top)
            )
            if labels is not None:
                _centred(draw, labels[number][column], column, top + _CELL + 3, size=_TEXT)
    return sheet


def _centred(draw: ImageDraw.ImageDraw, text: str, column: int, top: int, *, size: int) -> None:
    font = ImageFont.load_default(size)
    middle = _GAP + column * (_CELL + _GAP) + _CELL / 2
    draw.text((middle, top), text, fill=_INK, font=font, anchor="ma")
