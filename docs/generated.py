"""What pages say of code, made from the code when they are built: a Sphinx extension.

A line `<!-- generated: NAME -->` in a page becomes what the function of that name gives here.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

import ipa
from ipa.app.cli import app as command_line
from ipa.prepare.samplers.families import FAMILIES
from ipa.prepare.scaling.curves import NAMES as CURVES
from ipa.prepare.scaling.curves import curve_factors
from ipa.prepare.scaling.presets import ANYWHERE, FORMULAS, STYLE_LAYOUT, TABLES, WEAK_SECTIONS
from ipa.prepare.scaling.presets import NAMES as PRESETS
from ipa.request.profiles import DECIDED, NOT_DECIDED, NOT_FOLLOWED, PROFILES, Profile
from ipa.sources.catalogue import ADAPTERS

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def samplers() -> str:
    """Every family with what it takes."""
    classes = {
        family: kind.made_by or f"{FAMILIES[kind.sde_of or family].made_by}, its SDE form"
        for family, kind in FAMILIES.items()
    }
    return table(
        ["Name", "Class in diffusers", "Noise levels", "Takes of a call"],
        (
            [
                f"`{family}`",
                classes[family],
                ", ".join("own" if level == "training" else f"`_{level}`" for level in kind.levels),
                ", ".join([f"`{name}`" for name in kind.custom] + ["`eta`"] * kind.takes_eta)
                or "–",
            ]
            for family, kind in FAMILIES.items()
        ),
    )


def presets() -> str:
    """Presets of layers, and which layers they mean."""
    numbers: Mapping[str, Mapping[str, Mapping[int, float]]] = {**STYLE_LAYOUT, **TABLES}

    def said(name: str, base: str) -> str:
        if name in FORMULAS:
            count = 16 if base == "SD1.5" else 11
            factors = [FORMULAS[name](t, count) for t in range(count)]
            middle = f"{factors[count // 2]:.2f} in the middle"
            return f"all: {factors[0]:.2f} at the first, {middle}, {factors[-1]:.2f} at the last"
        if name in WEAK_SECTIONS:
            return f"all, {' and '.join(sorted(WEAK_SECTIONS[name]))} at 0.2"
        return ", ".join(f"{t}:{factor:g}" for t, factor in sorted(numbers[name][base].items()))

    return table(
        ["Name", "Any model", "SD1.5 (0 to 15)", "SDXL (0 to 10)"],
        (
            [f"`{n}`", "yes" if n in ANYWHERE else "no", said(n, "SD1.5"), said(n, "SDXL")]
            for n in PRESETS
        ),
    )


def curves() -> str:
    """Curves by name, at five places of a long run."""
    places = (0, 25, 50, 75, 99)
    return table(
        ["Name", *(f"at {place} %" for place in places)],
        ([f"`{n}`", *(f"{curve_factors(n, 100)[place]:.2f}" for place in places)] for n in CURVES),
    )


def adapters() -> str:
    """The public adapters by short name."""
    return table(
        ["Short name", "Base", "Good for", "File"],
        (
            [f"`{name}`", a.base, a.about, f"`{a.repository}`: `{a.path}`"]
            for name, a in ADAPTERS.items()
        ),
    )


def profiles() -> str:
    """The places where programs differ, and what each does there."""
    told = _attributes(Profile)
    rows = []
    for number, field in DECIDED.items():
        text = re.sub(r"^D\d+\. ", "", told[field])
        own = (f"{getattr(profile, field)}" for profile in PROFILES.values())
        rows.append([number, f"`{field}`. {text}", *own])
    return table(["Row", "What is decided", *PROFILES], rows)


def undecided() -> str:
    """The rows that no profile decides."""
    rows = [[number, reason] for number, reason in NOT_DECIDED.items()]
    return table(["Row", "Why all profiles are the same"], rows)


def unfollowed() -> str:
    """What programs do and no profile follows."""
    return table(
        ["What a program does", "Here"], ([name, text] for name, text in NOT_FOLLOWED.items())
    )


def types() -> str:
    """The names that are there for annotations."""
    rows = []
    for name, home in ipa._HOMES.items():
        value = getattr(ipa, name)
        if not inspect.isclass(value) and not inspect.isfunction(value):
            rows.append([f"`ipa.{name}`", _assigned(home, name)])
    return table(["Name", "What it is"], rows)


def commands() -> str:
    """Every command and option."""
    group: Any = typer.main.get_command(command_line)
    text = get_docs_for_click(obj=group, ctx=typer.Context(group), name="ipa-mlx")
    text = text.replace("```console\n$ ", "```text\n").partition("**Commands**:\n\n")[2]
    return re.sub(r"^\* `[a-z]+`: .*\n|^\*\*Commands\*\*:\n\n", "", text, flags=re.MULTILINE)


def errors() -> str:
    """Every message with a remedy, by the class of its error."""
    found: dict[str, dict[str, str]] = {}
    for folder in ("ipa", "convert"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name, what, remedy in _raised(ast.parse(path.read_text("utf-8"))):
                found.setdefault(name, {}).setdefault(what, remedy)
    parts = []
    for name in sorted(found):
        about = (
            inspect.getdoc(getattr(importlib.import_module("ipa.errors"), name)) or ""
        ).splitlines()[0]
        rows = ([what, remedy] for what, remedy in sorted(found[name].items()))
        parts.append(f"## {name}\n\n{about}\n\n{table(['What is wrong', 'What to do'], rows)}")
    return "\n\n".join(parts)


def features() -> str:
    """The table of features, which tests hold to the repository."""
    text = (ROOT / "FEATURES.md").read_text("utf-8").partition("\n")[2]
    return text.replace("(PARITY.md)", "(../understand/parity-table.md)")


def parity() -> str:
    """The table of whole runs against diffusers."""
    return (ROOT / "PARITY.md").read_text("utf-8").partition("\n")[2]


def _raised(tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    """(class, what, remedy) of errors that are raised with both in place."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
            continue
        remedies = [k.value for k in node.keywords if k.arg == "remedy"]
        what, remedy = _text(node.args[0]), _text(remedies[0]) if remedies else ""
        if node.func.id.endswith("Error") and len(what.strip("… ")) > 3 and remedy.strip("… "):
            yield node.func.id, what, remedy


def _text(node: ast.expr) -> str:
    """A text in code as a reader sees it, with … where a value comes in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _plain(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
        return _plain("".join(str(part) for part in parts))
    if isinstance(node, ast.IfExp):
        return " / ".join(text for text in (_text(node.body), _text(node.orelse)) if text)
    return ""


def _plain(text: str) -> str:
    """Without what Markdown would read as markup."""
    return re.sub(r"([\\<>*_`\[\]])", r"\\\1", text)


def _attributes(kind: type) -> dict[str, str]:
    """What a class says of its attributes."""
    lines = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", lines, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _assigned(module: str, name: str) -> str:
    """What stands below an assignment: its docstring, which Python does not keep."""
    body = ast.parse(Path(inspect.getfile(importlib.import_module(module))).read_text("utf-8")).body
    for node, after in itertools.pairwise(body):
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return " ".join(str(after.value.value).split())
    raise LookupError(f"{module}.{name} says nothing of itself")


MAKERS: Mapping[str, Callable[[], str]] = {
    make.__name__: make
    for make in (
        *(samplers, presets, curves, adapters, profiles, undecided, unfollowed),
        *(types, commands, errors, features, parity),
    )
}


def fill(app: Any, page: str, source: list[str]) -> None:
    """Put what is made in its place."""
    source[0] = PLACE.sub(lambda found: MAKERS[found[1]](), source[0])


def setup(app: Any) -> dict[str, bool]:
    """As Sphinx asks for it."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
