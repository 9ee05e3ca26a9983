"""The public interface: what the public modules name is there, is all that they show, and is
all that the documentation imports."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAZY = {
    "ipa": "ipa",
    "ipa.sheets": "ipa/sheets",
    "ipa.parity": "ipa/parity",
    "ipa_convert": "convert",
}
PUBLIC = ("ipa", "ipa.sheets", "ipa.parity", "ipa.controls")


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def snippets() -> list[tuple[str, str]]:
    """Every piece of Python that a reader is shown, with where it stands."""
    found = [(path.name, path.read_text("utf-8")) for path in (ROOT / "examples").glob("*.py")]
    for page in pages():
        code = re.findall(r"^```(?:python|py)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
        found += [(str(page.relative_to(ROOT)), block) for block in code]
    return found


@pytest.mark.parametrize("module", sorted({*PUBLIC, *LAZY}))
def test_every_name_is_there_and_nothing_else_is_shown(module: str) -> None:
    face = importlib.import_module(module)
    assert dir(face) == sorted(face.__all__)
    for name in face.__all__:
        value = getattr(face, name)
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
            assert value.__doc__, name


@pytest.mark.parametrize("module", LAZY)
def test_type_checkers_see_the_same_names(module: str) -> None:
    """A name that is only in the lazy table would be unknown to mypy and to editors."""
    path = ROOT / LAZY[module] / "__init__.py"
    seen = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                assert isinstance(statement, ast.ImportFrom)
                seen |= {alias.name for alias in statement.names}
    assert seen == set(importlib.import_module(module).__all__) - {"__version__"}


def test_what_readers_are_shown_imports_public_names_alone() -> None:
    wrong = []
    for where, code in snippets():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ipa"):
                module, names = node.module or "", {alias.name for alias in node.names}
                known = set(importlib.import_module(module).__all__) if module in PUBLIC else set()
                wrong += [f"{where}: {module} {name}" for name in names - known]
            if isinstance(node, ast.Import):
                ours = {a.name for a in node.names if a.name.split(".")[0].startswith("ipa")}
                wrong += [f"{where}: {name}" for name in ours - {"ipa"}]
    assert wrong == []
