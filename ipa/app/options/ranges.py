"""Numbers of an axis as they are typed: 1,2,5 or 1-3 or 0..1 or 0..1..0.1."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from ipa.errors import RequestError

MOST = 1000
"""Values of one axis."""

_PARTS = 4  # of a range without a step
_WHOLE = re.compile(r"(\d+)-(\d+)")


def numbers(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """Numbers and ranges with commas between them.

    Args:
        option: As it is typed, for errors.
        text: Numbers; whole ones as FIRST-LAST or FIRST..LAST, others as FIRST..LAST, which is five
            of them, or FIRST..LAST..STEP.
        kind: int or float.

    Raises:
        RequestError: One is no number, or there are too many.
    """
    found = list[Any]()
    for part in text.split(","):
        try:
            found += _range(part, kind)
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise RequestError(
                f"{option} takes numbers with commas between them, or a range",
                found=repr(text)[:80],
                remedy=f"write {option} 0,1,2 or {option} 0-2"
                if kind is int
                else f"write {option} 0,0.5,1 or {option} 0..1",
            ) from error
        if len(found) > MOST:
            raise RequestError(f"{option} has too many values", found=f"over {MOST}")
    return found


def _range(part: str, kind: Callable[[str], Any]) -> list[Any]:
    """Raises ValueError and its like for what is none."""
    whole = _WHOLE.fullmatch(part.strip()) if kind is int else None
    ends = whole.groups() if whole else tuple(part.split(".."))
    if len(ends) == 1:
        return [kind(part)]
    first, last, *rest = (kind(end) for end in ends)
    if len(rest) > 1:
        raise ValueError(part)
    usual = 1 if kind is int else (last - first) / _PARTS
    step = rest[0] if rest else usual
    count = math.floor((last - first) / step + 1e-9) + 1
    if count < 2:
        raise ValueError(part)
    # Rounded, or 0.1 three times were 0.30000000000000004.
    values = [first + number * step for number in range(min(count, MOST + 1))]
    return [kind(value) if kind is int else round(value, 10) for value in values]
