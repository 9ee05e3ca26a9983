"""Contact sheets: a labelled grid of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ipa.sheet import SheetBlock, SheetCell, SheetRow, draw_sheet


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
