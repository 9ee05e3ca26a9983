"""Assertions for tests: two runs, or two arrays, are as near as they must be."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ipa.errors import ParityError
from ipa.parity.capture.capture import Capture, Side
from ipa.parity.capture.capture_file import read
from ipa.parity.capture.sketch import Kept, Sketch
from ipa.parity.compare.captures import compare, usual_limits
from ipa.parity.compare.comparing_tap import difference
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.limits import FACTOR, ROUNDING, lower
from ipa.parity.compare.measures import Difference, metrics_of
from ipa.parity.compare.verdict import short, worst_first

from .budgets import Budget, BudgetLike

WORST = 5


class FirstDifferenceError(ParityError, AssertionError):
    """Stages are beyond their limits; the message is the verdict and the worst of them.

    Args:
        comparison: What was found.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        super().__init__(comparison.verdict.sentence)

    def __str__(self) -> str:
        return "\n".join([self.args[0], *table(worst_first(self.comparison.differences)[:WORST])])


def table(differences: Sequence[Difference]) -> Iterator[str]:
    """Differences as a table of text, line by line."""
    width = max((len(one.stage) for one in differences), default=0)
    metrics = metrics_of("text")
    titles = [f"{one.title:>{_WIDTH}}" for one in metrics]
    yield "  ".join([f"{'stage':{width}}", *titles])
    for one in differences:
        numbers = [
            f"{'' if value is None else short(value, metric.digits):>{len(title)}}"
            for metric, title in zip(metrics, titles, strict=True)
            for value in [metric.value(one)]
        ]
        yield "  ".join([f"{one.stage:{width}}", *numbers]) + ("  bad" if one.bad else "")


_WIDTH = 7
"""Characters of the narrowest column of numbers."""


Comparable: TypeAlias = "Capture | str | os.PathLike[str] | Mapping[str, Any] | npt.ArrayLike"
"""What can be compared: a capture or its file, arrays by name, or one array ("array")."""


_ONE = "array"


def assert_close(
    a: Comparable,
    b: Comparable,
    budget: BudgetLike = None,
    *,
    floors: Mapping[str, float] | None = None,
    allow: Collection[str] = (),
) -> Comparison:
    """Raise FirstDifferenceError unless b is as near to a as the budget says.

    Args:
        a: The reference: a capture or its file, arrays by name, or one array.
        b: The other. Of captures, stages that only one has are told and not held to anything;
            arrays must have the same names.
        budget: A TOML file, its contents, one limit on the relative L2 of everything, or None for
            what is usual in the lower precision of the two; see `ipa.parity.budgets.Budget`.
        floors: By stage, the relative L2 that rounding makes (`compare.comparing_tap.floors`); of
            captures, None is what they carry.
        allow: In what two captures may differ; see `compare.compatibility.check_compatible`.

    Returns:
        What was found, where nothing is beyond its limit.

    Raises:
        FirstDifferenceError: Something is; it is an AssertionError.
        IncompatibleCaptures, CaptureError, ParityError: They cannot be compared.
        RequestError: The budget is wrong.
    """
    __tracebackhide__ = True
    comparison = compared(a, b, Budget.of(budget), floors, allow)
    if not comparison.ok:
        raise FirstDifferenceError(comparison)
    return comparison


def compared(
    a: Comparable,
    b: Comparable,
    budget: Budget,
    floors: Mapping[str, float] | None = None,
    allow: Collection[str] = (),
) -> Comparison:
    """Compare b with a as `assert_close` does, without a verdict."""
    first, second = (read(x) if isinstance(x, (str, os.PathLike)) else x for x in (a, b))
    if isinstance(first, Capture) and isinstance(second, Capture):
        dtype = lower(first.header.dtype, second.header.dtype)
        stages = [stage for stage in first.stages if stage in second.stages]
        if floors is not None:
            return compare(first, second, budget.limits(stages, dtype, floors), allow)
        usual = usual_limits(first, second)
        if not budget.rows and budget.factor == FACTOR:
            return compare(first, second, usual, allow)
        limits = budget.limits(stages, dtype, usual.floors)
        return compare(first, second, replace(limits, local=usual.local), allow)
    return _of_arrays(_arrays(first, "a"), _arrays(second, "b"), budget, floors)


def _of_arrays(
    a: Mapping[str, Kept],
    b: Mapping[str, Kept],
    budget: Budget,
    floors: Mapping[str, float] | None,
) -> Comparison:
    if a.keys() != b.keys():
        alone = sorted(a.keys() ^ b.keys())
        raise ParityError(
            "the two have not the same names",
            found=f"{len(alone)} that only one has: {', '.join(alone[:3])}",
            remedy="compare arrays of the same names",
        )
    first, second = _side("a", a), _side("b", b)
    limits = budget.limits(a, lower(first.dtype, second.dtype), floors)
    for name in a:
        if a[name].shape != b[name].shape:
            raise ParityError(
                f"{name} has two shapes", found=f"{a[name].shape} and {b[name].shape}"
            )
    found = tuple(difference(name, a[name], b[name], limits) for name in a)
    return Comparison(first, second, "free-running", {}, found)


def _arrays(given: Any, side: str) -> dict[str, Kept]:
    if isinstance(given, Capture):
        return dict(given.stages)
    named = given if isinstance(given, Mapping) else {_ONE: given}
    if not named:
        raise ParityError(f"{side} holds no array")
    return {str(name): _array(f"{side}: {name}", array) for name, array in named.items()}


def _array(where: str, given: Any) -> Kept:
    if isinstance(given, Sketch):
        return given
    try:
        array = np.atleast_1d(np.asarray(given))
        real = array if array.dtype.kind == "f" else array.astype(np.float64, casting="safe")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParityError(
            f"{where} is no array of real numbers", found=f"{type(given).__name__}: {error}"
        ) from error
    if not real.size:
        raise ParityError(f"{where} is empty", found=f"shape {real.shape}")
    return real


def _side(name: str, arrays: Mapping[str, Kept]) -> Side:
    """The side of a comparison of arrays, in their lowest dtype; wider types count as float64."""
    found = ["float32" if isinstance(one, Sketch) else one.dtype.name for one in arrays.values()]
    dtypes = (dtype if dtype in ROUNDING else "float64" for dtype in found)
    return Side(name, "arrays", max(dtypes, key=ROUNDING.__getitem__), {})
