"""Sheets: pictures in labelled rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from PIL import Image, ImageDraw, ImageFont

from ipa.errors import RequestError, shown
from ipa.prepare.images.pictures import to_rgb

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"


GAP, LINE, NEXT = 8, 22, 18


HEADING, TITLE, TEXT = 16, 13, 12
"""Font sizes; a line of text is LINE pixels high, and NEXT where another follows."""


MAX_ROW_TITLE = 150


MAX_CELL = 4096


MAX_LINES = 3  # of a title above a column or beside a row


_INK, _PAPER, _RULE, _MARK = (24, 24, 28), (250, 250, 248), (205, 205, 200), (214, 90, 40)


@dataclass(frozen=True, slots=True)
class SheetCell:
    """A picture, None where there is none, with a line below it; a marked one has a frame."""

    picture: Image.Image | None
    label: str = ""
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class SheetRow:
    """Cells side by side, with a title on their left; None leaves a place empty."""

    title: str
    cells: Sequence[SheetCell | None]


@dataclass(frozen=True, slots=True)
class SheetBlock:
    """Rows under column titles, with a heading; the same titles are drawn once for several."""

    columns: Sequence[str]
    rows: Sequence[SheetRow]
    heading: str = ""


def draw_sheet(
    blocks: Sequence[SheetBlock],
    *,
    title: str = "",
    notes: Sequence[str] = (),
    cell: tuple[int, int] = (128, 128),
) -> Image.Image:
    """Draw blocks as one sheet, RGB.

    Args:
        blocks: One under another.
        title: Above them.
        notes: Below them, one paragraph each.
        cell: Width and height of a cell in pixels; a picture of another aspect is fitted into it.

    Titles are broken into lines where they are too long, and labels below a picture made smaller
    or cut with "…"; nothing is drawn over anything else.
    """
    _check_sheet(blocks, title, notes, cell)
    layout = _Layout(blocks, cell)
    paragraphs = [line for note in notes for line in _lines(note, TEXT, layout.inner, 99)]
    head = _lines(title, HEADING, layout.inner, MAX_LINES)
    above = _high(len(head)) + GAP * bool(head)
    below = _high(len(paragraphs)) + GAP * bool(paragraphs)
    height = GAP + above + sum(layout.heights) + below
    sheet = Image.new("RGB", (layout.width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, head, GAP, GAP, HEADING)
    top = GAP + above
    for number, block in enumerate(blocks):
        layout.draw(sheet, draw, number, block, top)
        top += layout.heights[number]
    if paragraphs:
        _write(draw, paragraphs, GAP, top, TEXT)
    return sheet


def _check_sheet(blocks: Any, title: Any, notes: Any, cell: Any) -> None:
    """Raise RequestError for blocks that cannot be drawn."""
    if not isinstance(blocks, (list, tuple)) or not all(isinstance(b, SheetBlock) for b in blocks):
        raise RequestError("blocks of a sheet are a list of SheetBlock", found=shown(blocks))
    texts = notes if isinstance(notes, (list, tuple)) else [notes]
    if not isinstance(notes, (list, tuple)) or not all(isinstance(t, str) for t in [title, *texts]):
        raise RequestError(
            "title and notes of a sheet are a text and a list of texts",
            found=f"{shown(title)}, {shown(notes)}",
        )
    sides = cell if isinstance(cell, (list, tuple)) else ()
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MAX_CELL for side in sides):
        raise RequestError(
            f"a cell of a sheet is two numbers of pixels, 1 to {MAX_CELL}", found=shown(cell)
        )


class _Layout:
    """The places of everything on a sheet, measured once before anything is drawn."""

    def __init__(self, blocks: Sequence[SheetBlock], cell: tuple[int, int]) -> None:
        self.cell = cell
        titles = [row.title for block in blocks for row in block.rows]
        widest = max((_width(text, TITLE) for text in titles), default=0)
        self.margin = min(widest, MAX_ROW_TITLE) + GAP if widest else 0
        columns = max((len(block.columns) for block in blocks), default=1)
        self.width = GAP + self.margin + columns * (cell[0] + GAP)
        self.inner = self.width - 2 * GAP
        self.headings = [_lines(b.heading, HEADING, self.inner, MAX_LINES) for b in blocks]
        self.titles = [
            [_lines(text, TITLE, cell[0], MAX_LINES) for text in block.columns]
            if number == 0 or block.columns != blocks[number - 1].columns
            else []
            for number, block in enumerate(blocks)
        ]
        self.heights = [self._height(number, block) for number, block in enumerate(blocks)]

    def _height(self, number: int, block: SheetBlock) -> int:
        top = _high(len(self.headings[number])) + _high(self._title_lines(number))
        return top + sum(self._row(row) for row in block.rows)

    def _title_lines(self, number: int) -> int:
        return max((len(lines) for lines in self.titles[number]), default=0)

    def _row(self, row: SheetRow) -> int:
        return self.cell[1] + LINE * any(cell.label for cell in row.cells if cell) + GAP

    def _left(self, column: int) -> int:
        return GAP + self.margin + column * (self.cell[0] + GAP)

    def draw(
        self,
        sheet: Image.Image,
        draw: ImageDraw.ImageDraw,
        number: int,
        block: SheetBlock,
        top: int,
    ) -> None:
        """Draw a block whose upper edge is at `top`."""
        if self.headings[number]:
            if number:
                draw.line((GAP, top - GAP // 2, self.width - GAP, top - GAP // 2), fill=_RULE)
            top = _write(draw, self.headings[number], GAP, top, HEADING)
        bottom = top + _high(self._title_lines(number))
        for column, lines in enumerate(self.titles[number]):
            middle = self._left(column) + self.cell[0] // 2
            _write(draw, lines, middle, bottom - _high(len(lines)), TITLE, anchor="ma")
        for row in block.rows:
            lines = _lines(row.title, TITLE, self.margin - GAP, MAX_LINES) if self.margin else []
            middle = bottom + (self.cell[1] - _high(len(lines))) // 2
            _write(draw, lines, GAP, middle, TITLE)
            for column, cell in enumerate(row.cells):
                if cell is not None:
                    self._draw_cell(sheet, draw, cell, self._left(column), bottom)
            bottom += self._row(row)

    def _draw_cell(
        self, sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: SheetCell, left: int, top: int
    ) -> None:
        width, height = self.cell
        if cell.picture is None:
            draw.rectangle((left, top, left + width - 1, top + height - 1), outline=_RULE)
        else:
            picture = _fitted(cell.picture, self.cell)
            at = (left + (width - picture.width) // 2, top + (height - picture.height) // 2)
            sheet.paste(picture, at)
        if cell.is_marked:
            edge = (left - 3, top - 3, left + width + 2, top + height + 2)
            draw.rectangle(edge, outline=_MARK, width=3)
        (label, size) = _one_line(cell.label, width + GAP - 2)
        _write(draw, [label], left + width // 2, top + height + 3, size, anchor="ma")


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture in the same aspect, as large as a cell lets it be."""
    image = to_rgb(picture)
    share = min(size[0] / image.width, size[1] / image.height)
    width, height = (max(1, round(side * share)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _high(lines: int) -> int:
    """The height of lines of text, in pixels."""
    return LINE + (lines - 1) * NEXT if lines else 0


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _width(text: str, size: int) -> int:
    return round(_font(size).getlength(text) + 0.5)


def _write(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    left: int,
    top: int,
    size: int,
    anchor: str = "la",
) -> int:
    """Draw lines one under another; returns where the next would begin."""
    for number, line in enumerate(lines):
        draw.text((left, top + number * NEXT), line, fill=_INK, font=_font(size), anchor=anchor)
    return top + _high(len(lines))


def _one_line(text: str, width: int) -> tuple[str, int]:
    """A label and its font size: smaller where it is too long, then cut."""
    for size in (TEXT, TEXT - 1, TEXT - 2):
        if _width(text, size) <= width:
            return text, size
    return _cut(text, TEXT - 2, width), TEXT - 2


def _cut(text: str, size: int, width: int) -> str:
    """A text cut in its middle, for the ends of file names tell more."""
    if len(text) < 2 or _width(text, size) <= width:
        return text
    fitting, beyond = 1, len(text)
    while beyond - fitting > 1:
        middle = (fitting + beyond) // 2
        fits = _width(_shortened(text, middle), size) <= width
        fitting, beyond = (middle, beyond) if fits else (fitting, middle)
    return _shortened(text, fitting)


def _shortened(text: str, length: int) -> str:
    head = (length + 1) // 2
    return text if length == len(text) else f"{text[:head]}…{text[len(text) - (length - head) :]}"


def _lines(text: str, size: int, width: int, most: int) -> list[str]:
    """Words in lines of a width in pixels; what is beyond the last line is cut with "…"."""
    lines = list[str]()
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and (len(lines) == most or _width(joined, size) <= width):
            lines[-1] = joined
        else:
            lines.append(word)
    return [_cut(line, size, width) for line in lines]


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str],
    labels: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """Rows of pictures under column titles, with a line under each if `labels` are given."""
    texts = [[""] * len(row) for row in rows] if labels is None else labels
    drawn = [
        SheetRow("", [SheetCell(*pair) for pair in zip(row, line, strict=True)])
        for row, line in zip(rows, texts, strict=True)
    ]
    return draw_sheet([SheetBlock(columns, drawn)])
