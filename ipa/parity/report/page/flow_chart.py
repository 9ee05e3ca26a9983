"""The waterfall: error along the flow, a bar for each stage or group of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from ipa.parity.compare.measures import Difference
from ipa.parity.compare.verdict import short

from .markup import LogScale, Markup, element, joined
from .stage_tree import Group, holds, level

MOST_BARS = 320
_WIDTH, _HEIGHT, _LEFT, _TOP, _FOOT = 1000.0, 310.0, 46.0, 24.0, 34.0
_GAP = 0.15
"""The part of a bar's width that is left free beside it."""

_WIDTH_OF_A_LETTER = 6.6


def flow_chart(tree: Sequence[Group], scale: LogScale, first_bad: Difference | None) -> Markup:
    """An SVG: bars of relative L2, steps of floor and limit, phases below, where the runs part."""
    rows = level(tree, MOST_BARS)
    worst = [row.worst if isinstance(row, Group) else row for row in rows]
    wide = (_WIDTH - _LEFT) / max(1, len(rows))
    return element(
        "svg",
        element("title", "Error along the flow: relative L2 on a logarithmic scale"),
        *_bands(worst, wide),
        *_grid(scale),
        *(_bar(row, _LEFT + at * wide, wide, scale) for at, row in enumerate(rows)),
        _line("limit", [one.limit for one in worst], wide, scale),
        _line("floor", [one.floor for one in worst], wide, scale),
        *(
            _here(_LEFT + at * wide)
            for at, row in enumerate(rows)
            if first_bad and holds(row, first_bad)
        ),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        class_="flow",
    )


def _height(value: float, scale: LogScale) -> float:
    return _HEIGHT - _FOOT - scale.share(value) * (_HEIGHT - _FOOT - _TOP)


def _grid(scale: LogScale) -> Iterator[Markup]:
    every = 1 + len(scale.decades) // 9
    for decade in scale.decades[::every]:
        y = _height(10.0**decade, scale)
        yield element("path", d=f"M{_LEFT:g} {y:.1f}H{_WIDTH:g}", class_="grid")
        label = short(10.0**decade)
        yield element("text", label, x=_LEFT - 5, y=y + 4, text_anchor="end")


def _bands(worst: Sequence[Difference], wide: float) -> Iterator[Markup]:
    """The extent of each phase, with the names of as many as there is room for."""
    at, free = _LEFT, 0.0
    phases = itertools.groupby(worst, key=lambda one: one.stage.partition("/")[0])
    for number, (phase, members) in enumerate(phases):
        width = wide * len(list(members))
        kind, _, rest = phase.partition(".")
        label = f"step {int(rest)}" if kind == "step" and rest.isdigit() else phase
        if number % 2:
            foot = _HEIGHT - _FOOT - _TOP
            yield element("rect", x=at, y=_TOP, width=width, height=foot, class_="band")
        if (at >= free and width > 3 * _WIDTH_OF_A_LETTER) or at >= free + _WIDTH_OF_A_LETTER:
            start = min(at, _WIDTH - len(label) * _WIDTH_OF_A_LETTER)
            yield element("text", label, x=start, y=_HEIGHT - 14, class_="phase")
            free = start + (len(label) + 1) * _WIDTH_OF_A_LETTER
        at += width


def _bar(row: Group | Difference, x: float, wide: float, scale: LogScale) -> Markup:
    worst = row.worst if isinstance(row, Group) else row
    is_bad = row.bad > 0
    top, foot = _height(worst.measures.relative_l2, scale), _HEIGHT - _FOOT
    width = wide * (1 - _GAP)
    parts = [element("title", said(row))]
    # What is too low to be seen can be pointed at nonetheless.
    parts.append(element("rect", x=x, y=_TOP, width=wide, height=foot - _TOP, class_="hit"))
    parts.append(element("rect", x=x, y=top, width=width, height=max(1.0, foot - top)))
    if is_bad:
        middle = x + width / 2
        parts.append(element("path", d=f"M{middle:.1f} {top - 2:.1f}l-3-6h6z", class_="mark"))
    return element("g", *parts, class_="bad" if is_bad else None)


def _here(x: float) -> Markup:
    if x > _WIDTH / 2:
        return element(
            "text", "they part here ▸", x=x, y=_TOP - 10, text_anchor="end", class_="here"
        )
    return element("text", "◂ they part here", x=x, y=_TOP - 10, class_="here")


def said(row: Group | Difference) -> str:
    """A bar in words, for its tooltip."""
    one = row.worst if isinstance(row, Group) else row
    words = f"{one.stage}: relative L2 {short(one.measures.relative_l2)}"
    words += f", limit {short(one.limit)}"
    if one.ratio is not None:
        words += f", {short(one.ratio)} × floor"
    if isinstance(row, Group) and row.count > 1:
        words += f" (the worst of {row.count:,} stages; {row.bad:,} bad)"
    return words


def _line(kind: str, values: Sequence[float | None], wide: float, scale: LogScale) -> Markup:
    """A line in steps from bar to bar; a gap where there is no value."""
    path, before = "", None
    for at, value in enumerate(values):
        if value is not None:
            y, end = _height(value, scale), _LEFT + (at + 1) * wide
            path += f"V{y:.1f}" if before else f"M{end - wide:.1f} {y:.1f}"
            path += f"H{end:.1f}"
        before = value is not None
    return joined() if not path else element("path", d=path, class_=kind)
