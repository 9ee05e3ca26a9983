"""Rules on names. They match whole path components, never parts of them.

Patterns are dotted paths and match from the first component to the last: `*` stands for one
component, `#` for one number, `**` for one or more components. (A plain text replacement would turn
`input_blocks.1` inside `input_blocks.10`.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

_WILDCARDS: Mapping[str, str] = {"*": r"([^.]+)", "#": r"(0|[1-9][0-9]*)", "**": r"(.+)"}


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression with one group per wildcard, for `fullmatch`."""
    parts = (_WILDCARDS.get(part, re.escape(part)) for part in pattern.split("."))
    return re.compile(r"\.".join(parts))


@dataclass(frozen=True, slots=True)
class Rename:
    """One spelling for another; the n-th wildcard of the target takes what the n-th matched."""

    source: str
    target: str
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pattern", compile_pattern(self.source))

    def apply(self, name: str) -> str:
        """The other spelling, or the name itself where the rule does not match."""
        match = self._pattern.fullmatch(name)
        if match is None:
            return name
        groups = iter(match.groups())
        parts = self.target.split(".")
        return ".".join(next(groups) if part in _WILDCARDS else part for part in parts)

    def views(self, name: str, value: T) -> Iterator[tuple[str, T]]:
        """A tensor under its other spelling, as the rules of `spelling` have it."""
        yield self.apply(name), value


@dataclass(frozen=True, slots=True)
class Drop:
    """Tensors that may be left out, and why that loses nothing."""

    pattern: str
    reason: str
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pattern", compile_pattern(self.pattern))

    def matches(self, name: str) -> bool:
        """Whether the rule names this tensor."""
        return self._pattern.fullmatch(name) is not None


def rename(name: str, rules: Iterable[Rename]) -> str:
    """A name after all rules, one after the other."""
    for rule in rules:
        name = rule.apply(name)
    return name


def fits(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Whether every pattern matches some name."""
    listed = tuple(names)
    return all(any(map(compile_pattern(pattern).fullmatch, listed)) for pattern in patterns)
