"""Wrong suffixes of a file's name, FILE:0,7, FILE:70%, FILE@0-50%, and what was meant."""

from __future__ import annotations

import re
from pathlib import Path

from ipa.errors import RequestError

_NUMBER = r"-?\d*[.,]?\d+%?"
_WEIGHT = re.compile(rf":({_NUMBER})")
_WINDOW = re.compile(rf"@({_NUMBER})-({_NUMBER})")


def check_suffix(text: str) -> None:
    """Raise RequestError if a file that is there is followed by what is no weight and no window.

    Args:
        text: [NAME=]FILE and what stands behind it.
    """
    head = _file(text)
    if head is None:
        return
    suffix = text[len(head) :]
    weights, windows = _WEIGHT.findall(suffix), _WINDOW.findall(suffix)
    is_known = not _WINDOW.sub("", _WEIGHT.sub("", suffix)) and len(weights) < 2 > len(windows)
    meant = [f":{_plain(weight)}" for weight in weights]
    meant += [f"@{_plain(start)}-{_plain(end)}" for start, end in windows]
    written = head + "".join(meant) if is_known else f"{head}:0.7, or {head}:0.7@0-0.5"
    raise RequestError(
        f"what follows {head} is no weight and no window: {_reason(suffix, is_known=is_known)}",
        found=repr(suffix)[:80],
        remedy=f"write {written}",
    )


def _file(text: str) -> str | None:
    """The longest beginning of a word that is a file, with NAME= or without, and has a suffix."""
    for place in range(len(text) - 1, 0, -1):
        head = text[:place]
        if text[place] in ":@" and (_is_file(head) or _is_file(head.partition("=")[2])):
            return head
    return None


def _is_file(name: str) -> bool:
    try:
        return bool(name) and Path(name).is_file()
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


def _reason(suffix: str, *, is_known: bool) -> str:
    if is_known and "," in suffix:
        return "numbers have a point, not a comma"
    if is_known and "%" in suffix:
        return "numbers are fractions, not percent"
    if is_known:
        return "the weight comes first, then the window"
    return "a weight is :0.7, a window @0-0.5"


def _plain(number: str) -> str:
    """A number as we write it."""
    value = float(number.rstrip("%").replace(",", "."))
    return f"{value / 100 if number.endswith('%') else value:g}"
