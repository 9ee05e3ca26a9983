"""Layers by steps: where in the network, and when, the error is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ipa.backend.stages import ancestry, step_of
from ipa.parity.compare.measures import Difference
from ipa.parity.compare.verdict import short

from .markup import Markup, element
from .stage_tree import farthest

MOST_COLUMNS, MOST_ROWS = 26, 90
SHADES = (0.01, 0.1, 0.3, 1.0, 3.0, 30.0, 1000.0)
"""The largest ratio of error to limit in each shade but the last."""

Cells = dict[str, dict[int, list[Difference]]]


def heat_map(differences: Sequence[Difference]) -> Markup | None:
    """A table of the worst stage of each layer in each step; None where there is one step or none.

    Rows are layers, blocks where there are too many of them, in the order of computation; columns
    are steps, several together where there are too many.
    """
    by_step = [(step, one) for one in differences if (step := step_of(one.stage)) is not None]
    steps = sorted({step for step, _ in by_step})
    if len(steps) < 2:
        return None
    cells = _cells(by_step, is_coarse=False)
    if len(cells) > MOST_ROWS:
        cells = _cells(by_step, is_coarse=True)
    every = math.ceil(len(steps) / MOST_COLUMNS)
    columns = [steps[at : at + every] for at in range(0, len(steps), every)]
    titles = [
        element("th", str(c[0]) if len(c) == 1 else f"{c[0]}–{c[-1]}", scope="col") for c in columns
    ]
    head = element("thead", element("tr", element("th", "layer ╲ step", scope="col"), *titles))
    rows = [_row(name, cells[name], columns) for name in cells]
    caption = element("caption", "Relative L2 of the worst stage in each layer and step")
    return element("table", caption, head, element("tbody", *rows), class_="heat")


def legend() -> Markup:
    """A legend of the shades."""
    shades = [
        element("span", f"≤ {most:g} × limit", class_=f"h{shade}")
        for shade, most in enumerate(SHADES)
    ]
    shades.append(element("span", "more", class_=f"h{len(SHADES)}"))
    return element("p", *shades, " ● beyond its limit", class_="shades")


def _cells(by_step: Sequence[tuple[int, Difference]], *, is_coarse: bool) -> Cells:
    cells: Cells = {}
    for step, one in by_step:
        _, block, layer = ancestry(one.stage)
        path = one.stage.partition("/")[2]
        name = block or path if is_coarse else layer or path
        cells.setdefault(name, {}).setdefault(step, []).append(one)
    return cells


def _row(
    name: str,
    cells: dict[int, list[Difference]],
    columns: Sequence[Sequence[int]],
) -> Markup:
    made = []
    for steps in columns:
        here = [one for step in steps for one in cells.get(step, ())]
        made.append(_cell(farthest(here)) if here else element("td"))
    return element("tr", element("th", name, scope="row"), *made)


def _cell(one: Difference) -> Markup:
    error = one.measures.relative_l2
    share = error / one.limit if one.limit else math.inf if error else 0.0
    shade = sum(not share <= most for most in SHADES)  # NaN is the worst
    mark = "●" if one.bad else ""
    return element("td", mark + short(error, 1), class_=f"h{shade}", title=one.stage)
