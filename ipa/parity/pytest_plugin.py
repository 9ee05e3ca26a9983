"""A plugin of pytest: the fixture `parity`, and stages in the report of a test that fails.

pytest loads it wherever this package is installed, so it imports nothing until it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ipa.parity.compare.comparison import Comparison

    from .budgets import Budget, BudgetLike

_INI, _OPTION, _SHOWN = "parity_budget", "--parity-report", 30
_COMPARED = pytest.StashKey[list["Comparison"]]()
_ROWS = pytest.StashKey[dict[str, bool]]()
_TOLD = "parity_rows"
"""The key of a test report's property: rows of the project's budget, and whether any was used."""


class Parity:
    """The fixture `parity`: `ipa.parity.assert_close` with the project's budget.

    Every comparison is kept for the report.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item, self._compared = item, item.stash.setdefault(_COMPARED, [])

    def assert_close(self, a: Any, b: Any, budget: BudgetLike = None, **options: Any) -> Comparison:
        """See `ipa.parity.assertion.assert_close`.

        `budget` may also name a TOML file beside the test; None takes that of the ini option
        parity_budget, if there is one.
        """
        from .assertion import FirstDifferenceError, compared

        __tracebackhide__ = True
        limits = self._budget(budget)
        found = compared(a, b, limits, **options)
        if not limits.is_strict:
            rows = self._item.stash.setdefault(_ROWS, {row.pattern: False for row in limits.rows})
            rows |= dict.fromkeys(limits.matched(one.stage for one in found.differences), True)
        self._compared.append(found)
        if not found.ok:
            raise FirstDifferenceError(found)
        return found

    def _budget(self, given: BudgetLike) -> Budget:
        """The project's budget, for all of its tests: a row that one of them lacks is no error."""
        from .budgets import Budget

        config = self._item.config
        named = config.getini(_INI)
        if given is None and named:
            return replace(Budget.of(config.rootpath / named), is_strict=False)
        return Budget.of(self._item.path.parent / given if isinstance(given, str) else given)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options: one of the command line, one of the ini file."""
    group = parser.getgroup("parity", "parity of arrays and of runs")
    group.addoption(_OPTION, metavar="DIR", help="Write every comparison of `parity` as JSON.")
    parser.addini(_INI, "The budget of `parity`, a TOML file; relative to the root.", default="")


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Parity:
    """The fixture: compare arrays or captures within a budget."""
    return Parity(request.node)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the stages of a failed test's comparisons to its report; write all, if asked."""
    report = yield
    if call.when == "call" and _ROWS in item.stash:
        setattr(report, _TOLD, item.stash[_ROWS])  # goes from a worker of xdist to its master, too
    folder = item.config.getoption(_OPTION)
    compared = item.stash.get(_COMPARED, []) if call.when == "call" else []
    for number, comparison in enumerate(compared, 1):
        if report.failed and not comparison.ok:
            report.sections.append((f"parity, comparison {number}", _shown(comparison)))
        if folder:
            _write(item.config.invocation_params.dir / folder, item.nodeid, number, comparison)
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print budget rows that no test of the session had: once, and no failure."""
    rows: dict[str, bool] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for pattern, is_met in getattr(report, _TOLD, {}).items():
                rows[pattern] = rows.get(pattern, False) or is_met
    unmet = [pattern for pattern, is_met in rows.items() if not is_met]
    if unmet:
        named = config.getini(_INI)
        terminalreporter.write_sep("=", "parity")
        terminalreporter.write_line(f"{named}: of no stage of this session: {', '.join(unmet)}")


def _shown(comparison: Comparison) -> str:
    """The verdict, and stages from a little before the first bad one on."""
    from .assertion import table

    found = comparison.differences
    start = max(0, [one.bad for one in found].index(True) - 3)
    shown = found[start : start + _SHOWN]
    left = len(found) - len(shown)
    rest = [f"… and {left} stages more"] if left else []
    return "\n".join([comparison.verdict.sentence, "", *table(shown), *rest])


def _write(folder: Path, test: str, number: int, comparison: Comparison) -> None:
    from ipa.files import write_whole
    from ipa.parity.report.machine import json_report

    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "_", test)
    target = folder / f"{name}.{number}.json"
    report = {"test": test, **json_report(comparison)}
    write_whole(target, json.dumps(report, ensure_ascii=False, indent=1).encode())
