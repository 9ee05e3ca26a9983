"""How far stages may be apart, written down: patterns of stages, each with a limit or a factor."""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from ipa.backend.stages import chosen
from ipa.errors import RequestError
from ipa.parity.compare.limits import FACTOR, Limits

_KEYS = frozenset({"factor", "stages"})
_ROW = ("limit", "factor")


@dataclass(frozen=True, slots=True)
class Row:
    """What the stages of a pattern may be off: by `limit`, or by `factor` times the floor."""

    pattern: str
    limit: float | None = None
    factor: float | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on the relative L2 of stages.

    Attributes:
        rows: By pattern ("*" and "?" are any characters); of several that match a stage, the last.
        factor: How many times its floor a stage without a row may be off. Where no floor is known,
            `ipa.parity.compare.limits` has what is usual in the precision.
        source: What errors call it.
        is_strict: Whether a pattern that matches no stage is an error. The budget of a project has
            rows that a single test needs not have.
    """

    rows: tuple[Row, ...] = ()
    factor: float = FACTOR
    source: str = field(default="the budget", compare=False)
    is_strict: bool = field(default=True, compare=False)

    @classmethod
    def of(cls, given: BudgetLike) -> Budget:
        """Read a budget: one, a TOML file, its contents, one limit for all stages, or None.

        Raises:
            RequestError: It cannot be read, has a key that means nothing, or a number that is not
                positive.
        """
        if given is None or isinstance(given, Budget):
            return given or cls()
        if isinstance(given, Mapping):
            return _budget(given, "the budget")
        if isinstance(given, (str, os.PathLike)):
            return _budget(_read(Path(given)), str(given))
        return cls((Row("*", limit=_positive(given, "the budget")),))

    def limits(
        self, stages: Iterable[str], dtype: str, floors: Mapping[str, float] | None = None
    ) -> Limits:
        """The limits for the stages of a comparison.

        Args:
            stages: Their names.
            dtype: The lower precision of the two runs.
            floors: By stage, what rounding alone makes, where that is known.

        Raises:
            RequestError: A pattern of a strict budget matches no stage (the nearest are told), or a
                factor is of a floor that is not known.
        """
        names = tuple(stages)
        rows = {stage: row for row in self.rows for stage in self._matched(row, names)}
        limits = Limits(dtype, floors or {}, self.factor)
        return Limits(dtype, floors or {}, self.factor, dict(self._own(rows, limits)))

    def _own(self, rows: Mapping[str, Row], limits: Limits) -> Iterator[tuple[str, float]]:
        for stage, row in rows.items():
            floor = limits.floor(stage)
            if row.limit is not None:
                yield stage, row.limit
            elif floor is not None:
                yield stage, (row.factor or self.factor) * floor
            else:
                raise RequestError(
                    f"{self.source}: {row.pattern!r} is a factor of a floor",
                    found=f"no floor of {stage}",
                    remedy="pass floors, or give a limit",
                )

    def matched(self, stages: Iterable[str]) -> list[str]:
        """The patterns that match a stage."""
        names = tuple(stages)
        free = replace(self, is_strict=False)
        return [row.pattern for row in self.rows if free._matched(row, names)]

    def _matched(self, row: Row, names: Iterable[str]) -> list[str]:
        """The stages that a row's pattern matches; runs that are told apart by "@2" go together."""
        bare = {name: name.partition("@")[0] for name in names}
        try:
            found = chosen([row.pattern], {**bare, **dict.fromkeys(bare.values())})
        except RequestError as error:
            if not self.is_strict:
                return []
            raise RequestError(
                f"{self.source}: {error.what}", found=error.found, remedy=error.remedy
            ) from error
        return [name for name, short in bare.items() if name in found or short in found]


BudgetLike: TypeAlias = Budget | str | os.PathLike[str] | Mapping[str, Any] | float | None
"""What `Budget.of` reads."""


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read", found=str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{path} is no TOML", found=str(error)) from error


def _budget(fields: Mapping[str, Any], source: str) -> Budget:
    _check_keys(fields, _KEYS, source)
    stages = fields.get("stages", {})
    if not isinstance(stages, Mapping):
        raise RequestError(f"{source}: stages is no table", found=repr(stages)[:80])
    rows = tuple(_row(pattern, value, source) for pattern, value in stages.items())
    return Budget(rows, _positive(fields.get("factor", FACTOR), f"{source}: factor"), source)


def _row(pattern: str, value: Any, source: str) -> Row:
    where = f"{source}: stages.{pattern!r}"
    if not isinstance(value, Mapping):
        return Row(pattern, limit=_positive(value, where))
    _check_keys(value, frozenset(_ROW), where)
    if len(value) != 1:
        raise RequestError(where, found=repr(dict(value))[:80], remedy="one of limit and factor")
    ((kind, number),) = value.items()
    return Row(pattern, **{kind: _positive(number, f"{where}.{kind}")})


def _check_keys(fields: Mapping[str, Any], keys: frozenset[str], where: str) -> None:
    for key in fields.keys() - keys:
        near = difflib.get_close_matches(str(key), keys, 1, 0.4)
        raise RequestError(
            f"{where}: no key is called {key!r}",
            found=", ".join(map(str, fields)),
            remedy=f"did you mean {near[0]}?" if near else f"one of {', '.join(sorted(keys))}",
        )


def _positive(value: Any, where: str) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise RequestError(f"{where} must be a positive number", found=repr(value)[:80])
    return float(value)
