"""The tables of the page: stages, sides, request, swaps, what only one run has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from ipa.backend.stages import explain_phase, explain_stage
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.measures import Difference, metrics_of
from ipa.parity.compare.verdict import notable, short
from ipa.parity.report.issue_text import side_rows

from .markup import Markup, element, joined
from .stage_tree import DIGITS, row_values

MOST_ROWS, MOST_NAMES = 100, 1000

_HEADS = (
    ("stage", "stage"),
    *((one.name, one.title) for one in metrics_of("page")),
    ("shape", "shape"),
)
"""The keys of the script's columns, and their titles."""


def stage_table(comparison: Comparison) -> Markup:
    """A table of the stages that matter; the page's script fills in all others."""
    heads = [
        element("th", element("button", title, type="button", data_key=key), scope="col")
        for key, title in _HEADS
    ]
    rows = [_stage_row(one) for one in islice(notable(comparison.differences), MOST_ROWS)]
    head, body = element("thead", element("tr", *heads)), element("tbody", *rows)
    return element("table", head, body, id="stages", class_="numbers")


def _stage_row(one: Difference) -> Markup:
    mark = "✗ bad: " if one.bad else ""
    name = element("th", mark, one.stage, element("small", explain_stage(one.stage)), scope="row")
    cells = (
        element("td", "–" if value is None else short(value, digits))
        for value, digits in zip(row_values(one), DIGITS, strict=True)
    )
    shape = element("td", " × ".join(map(str, one.shape)))
    return element("tr", name, *cells, shape, class_="bad" if one.bad else None)


def side_table(comparison: Comparison) -> Markup:
    """A table of both sides, what differs marked."""
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", a or "–"),
            element("td", "≠" if differs else "=", class_="sign"),
            element("td", b or "–"),
            class_="differs" if differs else None,
        )
        for name, a, b, differs in side_rows(comparison.a, comparison.b)
    ]
    return _table(("", "a", "", "b"), rows)


def request_table(request: Mapping[str, Any]) -> Markup:
    """A table of the request, a row for each value."""
    rows = [
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in _flat("", request)
    ]
    return _table(("what", "value"), rows)


def swap_table(comparison: Comparison) -> Markup:
    """A table of swapped components and their costs; empty where none was swapped."""
    whole = comparison.unswapped
    if not comparison.swaps:
        return joined()
    rows = []
    for swap in sorted(comparison.swaps, key=lambda one: one.relative_l2):
        cost = None if not whole else max(0.0, 1 - swap.relative_l2 / whole)
        bar = element("meter", min=0, max=1, value=cost or 0.0, aria_hidden="true")
        cells = [element("td", short(swap.relative_l2)), element("td", bar)]
        cells.insert(1, element("td", "–" if cost is None else f"{100 * cost:.0f} %"))
        rows.append(element("tr", element("th", swap.component, scope="row"), *cells))
    a, b = comparison.a.name, comparison.b.name
    words = f"{b} was run again with one component of {a} at a time. "
    if whole is not None:
        words += f"Without any, what is finished is {short(whole)} apart (relative L2). "
    words += "What is left with a's everything before a part is made by that part and what follows."
    heads = ("component of a", "what is left", "so it costs", "")
    return joined(element("p", words), _table(heads, rows))


def lone_stages(comparison: Comparison) -> Markup:
    """Lists of stages that only one run has, by phase; empty where there are none."""
    made = []
    for side, names in ((comparison.a, comparison.only_a), (comparison.b, comparison.only_b)):
        if names:
            phases = Counter(explain_phase(name) for name in names)
            counts = ", ".join(f"{count:,} {phase}" for phase, count in phases.items())
            shown = "\n".join(names[:MOST_NAMES])
            more = len(names) - MOST_NAMES
            shown += f"\n… and {more:,} more" if more > 0 else ""
            title = element("summary", f"Only {side.name} has {len(names):,}: {counts}")
            made.append(element("details", title, element("pre", shown, tabindex=0)))
    return joined(*made)


def _table(heads: Sequence[str], rows: Sequence[Markup]) -> Markup:
    titles = [element("th", head, scope="col") if head else element("td") for head in heads]
    head = element("thead", element("tr", *titles))
    return element("div", element("table", head, element("tbody", *rows)), class_="scroll")


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Dotted names and values of nested dicts; a list of plain values stays whole."""
    entries: Iterator[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping) and value:
        entries = iter(value.items())
    elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
        entries = iter(enumerate(value))
    if entries is None:
        yield name, value if isinstance(value, str) else json.dumps(value, default=str)
        return
    for key, entry in entries:
        yield from _flat(f"{name}.{key}" if name else str(key), entry)
