"""A chart of a measurement: one bar an arm, its range as a line; SVG, which needs no library."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from .report import Measurement, short_seconds
from .summary import Arm

_LABEL, _BARS, _NUMBER, _LINE, _TOP = 380, 420, 90, 26, 34
_COLOURS = ("#3b6ea8", "#d0803a", "#5b9a56", "#8a62a8", "#a8574f", "#6b7280")


def chart(of: Measurement) -> str:
    """The chart as SVG: seconds from 0, an arm a line, a colour a program."""
    programs = list(dict.fromkeys(arm.case.program for arm in of.arms))
    most = max((arm.time.high for arm in of.arms), default=1.0)
    width, height = _LABEL + _BARS + _NUMBER, _TOP + _LINE * len(of.arms) + 10
    title = escape(f"Seconds, median and range; {of.conditions.get('chip', '')}")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-weight="bold">{title}</text>',
    ]
    for number, arm in enumerate(of.arms):
        lines += _bar(arm, _TOP + _LINE * number, most, _colour(arm, programs))
    return "\n".join([*lines, "</svg>", ""])


def _bar(arm: Arm, top: int, most: float, colour: str) -> list[str]:
    time, middle = arm.time, top + _LINE // 2
    median, low, high = (
        _LABEL + _BARS * value / most for value in (time.median, time.low, time.high)
    )
    label = escape(arm.case.name)
    return [
        f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{label}</text>',
        f'<rect x="{_LABEL}" y="{top + 4}" width="{median - _LABEL:.1f}" height="{_LINE - 8}" '
        f'fill="{colour}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#111111"/>',
        f'<text x="{high + 6:.1f}" y="{middle + 4}">{short_seconds(time.median)} s</text>',
    ]


def _colour(arm: Arm, programs: Sequence[str]) -> str:
    return _COLOURS[programs.index(arm.case.program) % len(_COLOURS)]
