"""Curves of the error of a result over the steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipa.backend.stage_table import RESULTS
from ipa.backend.stages import kind_of, step_of
from ipa.parity.compare.measures import Difference
from ipa.parity.compare.verdict import short

from .markup import LogScale, Markup, element, scale_of

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 420.0, 210.0, 46.0, 10.0, 10.0, 24.0

Points = Sequence[tuple[int, Difference]]


def step_curves(differences: Sequence[Difference]) -> list[Markup]:
    """A figure for each result that more than one step has, all on the same scale."""
    found: dict[str, list[tuple[int, Difference]]] = {kind.curve: [] for kind in RESULTS}
    for one in differences:
        kind, step = kind_of(one.stage), step_of(one.stage)
        if kind is not None and kind.curve and step is not None:
            found[kind.curve].append((step, one))
    drawn = {title: points for title, points in found.items() if len(points) > 1}
    scale = scale_of([one for points in drawn.values() for _, one in points])
    return [_figure(title, points, scale) for title, points in drawn.items()]


def _figure(title: str, points: Points, scale: LogScale) -> Markup:
    first, last = points[0][1].measures.relative_l2, points[-1][1].measures.relative_l2
    words = f"from {short(first)} at step {points[0][0]} to {short(last)} at step {points[-1][0]}"
    caption = element("figcaption", element("b", title), f" {words}")
    svg = element(
        "svg",
        element("title", f"{title}: relative L2 by step, {words}"),
        *_grid(points, scale),
        _curve("limit", points, [one.limit for _, one in points], scale),
        _curve("floor", points, [one.floor for _, one in points], scale),
        _curve("error", points, [one.measures.relative_l2 for _, one in points], scale),
        *_dots(points, scale),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        class_="curve",
    )
    return element("figure", caption, svg)


def _x(step: int, points: Points) -> float:
    first, last = points[0][0], points[-1][0]
    return _LEFT + (step - first) / max(1, last - first) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, scale: LogScale) -> float:
    return _HEIGHT - _FOOT - scale.share(value) * (_HEIGHT - _FOOT - _TOP)


def _grid(points: Points, scale: LogScale) -> Iterator[Markup]:
    for decade in scale.decades[:: 1 + len(scale.decades) // 7]:
        y = _y(10.0**decade, scale)
        yield element("path", d=f"M{_LEFT:g} {y:.1f}H{_WIDTH - _RIGHT:g}", class_="grid")
        label = short(10.0**decade)
        yield element("text", label, x=_LEFT - 5, y=y + 4, text_anchor="end")
    for step, _ in points[:: 1 + len(points) // 10]:
        x = _x(step, points)
        yield element("text", str(step), x=x, y=_HEIGHT - 6, text_anchor="middle")


def _curve(kind: str, points: Points, values: Sequence[float | None], scale: LogScale) -> Markup:
    path, is_drawn = "", False
    for (step, _), value in zip(points, values, strict=True):
        if value is not None:
            path += f"{'L' if is_drawn else 'M'}{_x(step, points):.1f} {_y(value, scale):.1f}"
        is_drawn = value is not None
    return element("path", d=path or None, class_=kind)


def _dots(points: Points, scale: LogScale) -> Iterator[Markup]:
    for step, one in points:
        error = one.measures.relative_l2
        words = f"step {step}: {short(error)}, limit {short(one.limit)}"
        if one.floor is not None:
            words += f", floor {short(one.floor)}"
        yield element(
            "circle",
            element("title", words),
            cx=_x(step, points),
            cy=_y(error, scale),
            r=3.5 if one.bad else 2.5,
            class_="bad" if one.bad else None,
        )
