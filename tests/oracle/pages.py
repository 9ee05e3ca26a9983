"""The README and the manual as a reader uses them: their pieces of code, in the order of a page.

What stands after ``` says what a piece is:

- python: runs with the demo, in the page's own namespace.
- sh: commands with the demo.
- console: commands after "$ ", and what they print, where "…" is anything.
- json, toml: a request, and a budget or settings of pytest.
- py, bash: Python and commands with real models, for which small ones stand in a local hub.
- text: not run.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from ipa import demo, open_image, parity
from ipa.app.cli import app
from ipa.parity.budgets import Budget
from ipa.pipeline.request_file import read_request

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = frozenset({"python", "sh", "console", "json", "toml", "py", "bash", "text"})
REAL = frozenset({"py", "bash"})
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ELSEWHERE = frozenset({"pip", "make"})
# Tested by themselves, and long: here only that there is such a command, with such options.
_LONG = (["ipa-mlx", "doctor"],)


@dataclass(frozen=True)
class Block:
    """A piece of code."""

    language: str
    code: str

    @property
    def commands(self) -> list[list[str]]:
        """Commands by words, whatever shell language it is."""
        lines = self.code.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [words for line in lines if (words := shlex.split(line, comments=True))]


@dataclass(frozen=True)
class Page:
    """A page of the repository."""

    path: Path

    @property
    def name(self) -> str:
        """Where it lies."""
        return str(self.path.relative_to(ROOT))

    @property
    def text(self) -> str:
        """All of it."""
        return self.path.read_text("utf-8")

    @property
    def blocks(self) -> list[Block]:
        """Its pieces of code."""
        return [Block(*found) for found in _BLOCK.findall(self.text)]

    def run(self, folder: Path) -> None:
        """What needs no model but the demo, one piece after the other, in a folder."""
        names: dict[str, Any] = {"__name__": self.name}
        for block in self.blocks:
            if block.language == "python":
                _execute(block.code, self.name, names)
            elif block.language in {"sh", "console"}:
                for words in block.commands:
                    _command(words, folder, block)
            elif block.language == "json":
                (folder / "request.json").write_text(block.code, "utf-8")
                read_request(folder / "request.json")
            elif block.language == "toml":
                _settings(tomllib.loads(block.code))


PAGES = tuple(
    Page(path)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "built" not in path.parts
)


def write_pictures(folder: Path) -> None:
    """style.png and object.png, as the first page has its reader write them."""
    for name, number in (("style", 2), ("object", 3)):
        open_image(demo.references()[number]).save(folder / f"{name}.png")


def commands(language: str) -> Iterator[list[str]]:
    """All commands of one kind, of all pages."""
    for page in PAGES:
        for block in page.blocks:
            if block.language == language:
                yield from block.commands


def real_code(page: Page) -> str:
    """What a page does with real models, as one program that has `command(words)`."""
    return "\n".join(
        block.code
        if block.language == "py"
        else "\n".join(f"command({words!r})" for words in block.commands)
        for block in page.blocks
        if block.language in REAL
    )


def _execute(code: str, where: str, names: dict[str, Any]) -> None:
    exec(compile(code, where, "exec"), names)
    for name in [name for name in names if name.startswith("test_")]:
        names.pop(name)(parity)  # as the plugin's fixture, which has the same function


def _command(words: list[str], folder: Path, block: Block) -> None:
    if words[0] in _ELSEWHERE:
        return
    assert words[0] == "ipa-mlx", words
    is_long = any(words[: len(long)] == long for long in _LONG)
    called = CliRunner().invoke(app, [*words[1:], *(["--help"] if is_long else [])])
    if block.language == "console":
        _printed(block, called.output)
        return
    assert called.exit_code == 0, (words, called.output, called.exception)
    if "-o" in words:
        output = Path(words[words.index("-o") + 1])
        assert list(folder.glob(f"{output.stem}*{output.suffix}")), words


def _printed(block: Block, output: str) -> None:
    """Every line that the page shows is printed, in this order."""
    rest = output
    for line in block.code.splitlines():
        if not line.startswith("$ "):
            pattern = ".*".join(re.escape(part) for part in line.strip().split("…"))
            found = re.search(pattern, rest)
            assert found, (line, output)
            rest = rest[found.end() :]


def _settings(told: dict[str, Any]) -> None:
    """A budget; or settings of pytest, by name."""
    if "tool" in told:
        assert set(told["tool"]["pytest"]["ini_options"]) == {"parity_budget"}
    else:
        Budget.of(told)
