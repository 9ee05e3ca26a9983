"""The rooms of the house and their imports, read from its sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"ipa": "ipa", "ipa_mlx": "ipa_mlx", "ipa_torch": "ipa_torch", "ipa_convert": "convert"}


@dataclass(frozen=True)
class Import:
    """`importer` names `imported`, both modules, in a line of its file."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def sources() -> dict[str, str]:
    """The text of every module, by its dotted name; packages end in ".__init__"."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder).with_suffix("")
            found[".".join([package, *inside.parts])] = path.read_text("utf-8")
    return found


def imports(texts: Mapping[str, str]) -> list[Import]:
    """Every import of one of the modules by another, wherever it stands, also for types alone."""
    return [
        Import(importer, imported, line)
        for importer, text in texts.items()
        for imported, line in _imports(importer, text, texts)
        if imported != importer
    ]


def _imports(importer: str, text: str, known: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _known(alias.name, node.lineno, known)
        elif isinstance(node, ast.ImportFrom):
            base = importer.split(".")[: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = list(_known(f"{module}.{alias.name}", node.lineno, known))
                yield from inner or _known(module, node.lineno, known)


def _known(name: str, line: int, known: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    for spelling in (name, f"{name}.__init__"):
        if spelling in known:
            yield spelling, line


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that lead to each other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            place = stack.index(node)
            group = sorted(stack[place:])
            del stack[place:]
            if len(group) > 1:
                found.append(group)

    for node in sorted(arrows):
        if node not in order:
            visit(node)
    return found
