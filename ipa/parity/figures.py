"""Numbers in few characters, as reports print them."""

from __future__ import annotations

import re

_LONG = 1e5


def short(value: float, digits: int = 2) -> str:
    """A number with some significant digits: "0.31", "2e-6", "290", "inf", "nan"."""
    if 10**digits <= abs(value) < _LONG:
        return f"{value:.0f}"
    return re.sub(r"e([+-])0*(\d)", lambda e: f"e{e[1].strip('+')}{e[2]}", f"{value:.{digits}g}")
