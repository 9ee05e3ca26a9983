"""A report's stages as a tree, and the numbers of its rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ipa.backend.stages import ancestry, explain_stage
from ipa.parity.compare.measures import Difference, metrics_of

from .markup import Markup


@dataclass(frozen=True, slots=True)
class Group:
    """Stages that belong together, in the order in which the first of each was computed.

    `name` is the group's own part of the names in it. `worst` is the stage that is the largest
    part of its limit.
    """

    name: str
    children: tuple[Group | Difference, ...]
    worst: Difference
    count: int
    bad: int


def tree_of(differences: Sequence[Difference]) -> tuple[Group, ...]:
    """A tree of stages: phases, with blocks, layers and single stages in them."""
    root = _Branch("")
    for one in differences:
        branch = root
        for key in ancestry(one.stage):
            if key:
                branch = branch.under(key)
        branch.entries.append(one)
    return tuple(_group(branch, "") for branch in root.branches.values())


def level(tree: Sequence[Group], most: int) -> list[Group | Difference]:
    """The groups at the deepest level of the tree that has no more of them than `most`."""
    rows: list[Group | Difference] = list(tree)
    while True:
        deeper = [c for row in rows for c in (row.children if isinstance(row, Group) else (row,))]
        if len(deeper) > most or len(deeper) == len(rows):
            return rows
        rows = deeper


def holds(row: Group | Difference, one: Difference) -> bool:
    """Whether a stage is a row or in its group."""
    if isinstance(row, Difference):
        return row is one
    return any(holds(child, one) for child in row.children)


def farthest(differences: Iterable[Difference]) -> Difference:
    """The stage with the largest share of its limit; one that is not finite before all others."""
    return max(differences, key=lambda one: (one.bad, one.share))


@dataclass(frozen=True, slots=True)
class _Branch:
    name: str
    branches: dict[str, _Branch] = field(default_factory=dict)
    entries: list[_Branch | Difference] = field(default_factory=list)

    def under(self, name: str) -> _Branch:
        if name not in self.branches:
            self.branches[name] = _Branch(name)
            self.entries.append(self.branches[name])
        return self.branches[name]


def _group(branch: _Branch, above: str) -> Group:
    children: list[Group | Difference] = []
    for entry in branch.entries:
        grown = entry if isinstance(entry, Difference) else _group(entry, branch.name)
        is_lone = isinstance(grown, Group) and len(grown.children) == 1
        children.append(grown.children[0] if isinstance(grown, Group) and is_lone else grown)
    worst = farthest([c.worst if isinstance(c, Group) else c for c in children])
    count = sum(c.count if isinstance(c, Group) else 1 for c in children)
    bad = sum(child.bad for child in children)
    name = branch.name.removeprefix(above).lstrip(".")
    return Group(name, tuple(children), worst, count, bad)


_METRICS = metrics_of("page")
"""The numbers of a row. Before them stand its places in `phases`, `paths` and `shapes`, and whether
it is bad and sketched."""


DIGITS = tuple(max(3, one.digits) for one in _METRICS)
"""How many digits of each are shown."""


_STORED = 4  # digits in the page's data


def stage_data(differences: Sequence[Difference]) -> Markup:
    """The rows as JSON that may stand inside a script element.

    `paths` are of path, explanation, block and layer; a number that is not finite is a string.
    """
    phases: dict[str, int] = {}
    paths: dict[tuple[str, ...], int] = {}
    shapes: dict[str, int] = {}
    rows = []
    for one in differences:
        phase, block, layer = ancestry(one.stage)
        path = one.stage.partition("/")[2]
        words = (path, explain_stage(one.stage), block, layer)
        shape = " × ".join(map(str, one.shape))
        places = (
            phases.setdefault(phase, len(phases)),
            paths.setdefault(words, len(paths)),
            shapes.setdefault(shape, len(shapes)),
        )
        rows.append([*places, int(one.bad), int(one.sketched), *map(_number, row_values(one))])
    everything = {
        "columns": [metric.name for metric in _METRICS],
        "digits": DIGITS,
        "phases": list(phases),
        "paths": list(paths),
        "shapes": list(shapes),
        "rows": rows,
    }
    text = json.dumps(everything, separators=(",", ":"))
    # A name may say "</script>"; inside JSON these signs can only stand in strings.
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def row_values(one: Difference) -> tuple[float | None, ...]:
    """The numbers of a row."""
    return tuple(metric.value(one) for metric in _METRICS)


def _number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return None if value is None else float(f"{value:.{_STORED}g}")
    return str(value)
