"""Stages in groups: phases, blocks, layers, operations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..difference import Difference

# Where a block's name ends, and from there that of a layer.
_DIFFUSER = r"(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)"
_GROUPS = tuple(
    (re.compile(block), re.compile(layer))
    for block, layer in (
        (
            rf"(?:unet|controlnet\..+?|vae\.(?:en|de)coder)\.{_DIFFUSER}(?=[.@]|$)",
            r"\.(?:resnets|attentions|downsamplers|upsamplers)\.\d+(?=[.@]|$)",
        ),
        (
            r"(?:text_encoder(?:_2)?|image_encoder|projector)(?=\.)",
            r"\.(?:layers\.\d+|embeddings)(?=[.@]|$)",
        ),
        (
            r"(?:text\.(?:keys|values)|image\.\d+(?:\.(?:keys|values))?)(?=\.)",
            rf"\.{_DIFFUSER}(?:\.attentions\.\d+)?(?=[.@]|$)",
        ),
    )
)


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


def ancestry(stage: str) -> tuple[str, str, str]:
    """Phase, block and layer of a stage, each whole; "" where it belongs to none."""
    phase, _, path = stage.partition("/")
    for block, layer in _GROUPS:
        head = block.match(path)
        if head is not None:
            rest = layer.match(path, head.end())
            return phase, head[0], path[: rest.end()] if rest else ""
    return phase, "", ""


def tree_of(differences: Sequence[Difference]) -> tuple[Group, ...]:
    """Phases, with blocks, layers and single stages in them."""
    root = _Branch("")
    for one in differences:
        branch = root
        for key in ancestry(one.stage):
            if key:
                branch = branch.under(key)
        branch.entries.append(one)
    return tuple(_group(branch, "") for branch in root.branches.values())


def level(tree: Sequence[Group], most: int) -> list[Group | Difference]:
    """The tree's groups at the deepest level that has no more of them than `most`."""
    rows: list[Group | Difference] = list(tree)
    while True:
        deeper = [c for row in rows for c in (row.children if isinstance(row, Group) else (row,))]
        if len(deeper) > most or len(deeper) == len(rows):
            return rows
        rows = deeper


def holds(row: Group | Difference, one: Difference) -> bool:
    """Whether a stage is a row or in it."""
    if isinstance(row, Difference):
        return row is one
    return any(holds(child, one) for child in row.children)


def farthest(differences: Iterable[Difference]) -> Difference:
    """The one that is the largest part of its limit; one that is not finite before all others."""
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
