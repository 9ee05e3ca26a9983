"""HTML, escaped; and positions on a logarithmic scale."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass

from ipa.parity.compare.measures import Difference

_VOID = frozenset({"img", "input", "br"})


class Markup(str):
    """A text that is markup already, and is not escaped."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An HTML element; children that are no `Markup` are escaped, as attributes are.

    An attribute's trailing "_" is dropped, other ones become "-"; one that is None or False is left
    out, one that is True has no value.
    """
    start = tag + "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{joined(*children)}</{tag}>")


def joined(*children: str) -> Markup:
    """Children one after another, escaped where they are not markup."""
    parts = (c if isinstance(c, Markup) else html.escape(c, quote=False) for c in children)
    return Markup("".join(parts))


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    spelled = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {spelled}"
    said = f"{value:.5g}" if isinstance(value, float) else str(value)
    return f' {spelled}="{html.escape(said)}"'


_MOST, _LEAST = 12, 2
"""The most and least decades that a scale spans."""


@dataclass(frozen=True, slots=True)
class LogScale:
    """A logarithmic scale from 10^low to 10^high."""

    low: int
    high: int

    def share(self, value: float) -> float:
        """A value's place, 0 to 1; what is not finite stands at the top, zero at the foot."""
        if not math.isfinite(value):
            return 1.0
        if value <= 0.0:
            return 0.0
        return min(1.0, max(0.0, (math.log10(value) - self.low) / (self.high - self.low)))

    @property
    def decades(self) -> tuple[int, ...]:
        """The exponents of the scale's ticks."""
        return tuple(range(self.low, self.high + 1))


def scale_of(differences: Iterable[Difference]) -> LogScale:
    """A scale for all errors, floors and limits."""
    values = [
        value
        for one in differences
        for value in (one.measures.relative_l2, one.floor or 0.0, one.limit)
        if value > 0.0 and math.isfinite(value)
    ]
    if not values:
        return LogScale(-_LEAST, 0)
    high = math.ceil(math.log10(max(values)))
    low = min(math.floor(math.log10(min(values))), high - _LEAST)
    return LogScale(max(low, high - _MOST), high)
