"""README and manual are a promise: every snippet runs, every command and file is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from oracle.hub import LocalHub, serve
from oracle.pages import LANGUAGES, PAGES, REAL, ROOT, Page, commands, real_code, write_pictures
from oracle.stand_ins import repositories, write_files

if TYPE_CHECKING:
    from oracle.workshop import Workshop

README = PAGES[0]
MOST_LINES = 180
RUNNING = [page for page in PAGES if {b.language for b in page.blocks} - REAL - {"text"}]
WITH_REAL_MODELS = [page for page in PAGES if {b.language for b in page.blocks} & REAL]

PRELUDE = """
import numpy as np
from PIL import Image
from typer.testing import CliRunner

import ipa
from ipa.app.cli import app

embedding = np.full(512, 512**-0.5, np.float32)
photo = group = ipa.open_image("style.png")
find_faces = lambda picture: [ipa.Face(embedding)]
whole = ipa.Pipeline.__call__


def shortened(pipe, *given, **named):
    return whole(pipe, *given, **{"num_inference_steps": 2, **named})


def command(words):
    assert words[0] == "ipa-mlx", words
    steps = ["--steps", "2"] if words[1] == "generate" else []
    called = CliRunner().invoke(app, [*words[1:], *steps])
    assert called.exit_code == 0, (words, called.output, called.exception)


ipa.Pipeline.__call__ = shortened
"""
"""What pages say that a reader has: a photo, a face in it, and who finds it. Few steps will do."""


def test_the_readme_is_short() -> None:
    assert len(README.text.splitlines()) <= MOST_LINES


def test_every_piece_of_code_says_what_it_is() -> None:
    unknown = {(p.name, b.language) for p in PAGES for b in p.blocks if b.language not in LANGUAGES}
    assert not unknown


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.name)
def test_snippets_of_a_page_run(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    page.run(tmp_path)


def test_the_first_command_of_the_readme_is_a_program(tmp_path: Path) -> None:
    """The other commands run in this process."""
    write_pictures(tmp_path)
    program = Path(sys.executable).with_name("ipa-mlx")
    words = next(w for b in README.blocks for w in b.commands if w[:2] == ["ipa-mlx", "generate"])
    done = subprocess.run([program, *words[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / words[words.index("-o") + 1]) as made:
        assert made.size == (64, 64)


@pytest.fixture
def hub(workshop: Workshop, tmp_path: Path) -> Iterator[LocalHub]:
    """The repositories that pages name, with small files in the same places."""
    with serve(repositories(workshop, tmp_path / "hub")) as running:
        yield running


def test_snippets_with_real_models_run(hub: LocalHub, workshop: Workshop, tmp_path: Path) -> None:
    """Of each page in a namespace of its own, all in one program."""
    assert len(WITH_REAL_MODELS) >= 5
    folder = tmp_path / "reader"
    folder.mkdir()
    write_pictures(folder)
    write_files(workshop, folder)
    parts = [
        f"exec(compile({real_code(page)!r}, {page.name!r}, 'exec'), dict(globals()))"
        f"\nprint({page.name!r})"
        for page in WITH_REAL_MODELS
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([PRELUDE, *parts])],
        cwd=folder,
        env=os.environ | hub.environment(tmp_path / "cache"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == WITH_REAL_MODELS[-1].name


def test_make_targets_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for words in commands("sh"):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words
        elif words[:2] == ["pip", "install"]:
            named = re.findall(r"\[(\w+)\]", words[2])
            assert all(extra in project["optional-dependencies"] for extra in named), words
        else:
            assert words[0] == "ipa-mlx", words


def test_files_that_pages_link_exist() -> None:
    """Sphinx sees to links of the manual; here are those of the README, and all pictures."""
    linked = {(README.path, link) for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", README.text)}
    pictures = {(p.path, link) for p in PAGES for link in re.findall(r"{image} (\S+)", p.text)}
    assert linked
    assert pictures
    missing = [link for page, link in linked | pictures if not (page.parent / link).is_file()]
    assert missing == []


def test_headings_that_the_readme_links_exist() -> None:
    for path, anchor in re.findall(r"\]\(([^)#:]+)#([^)]+)\)", README.text):
        text = (ROOT / path).read_text("utf-8")
        heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in heads}
