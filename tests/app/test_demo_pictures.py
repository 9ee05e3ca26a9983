"""`ipa-mlx demo --export`: README's commands and those of the help run as they stand."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ipa import demo
from ipa.app.cli import app
from ipa.app.help.examples import RECIPES

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["demo", "--export", "."])
    assert done.exit_code == 0, done.output
    assert sorted(done.stdout.split()) == sorted(path.name for path in tmp_path.iterdir())
    return tmp_path


def test_every_picture_of_readme_is_there(exported: Path) -> None:
    typed = "\n".join(
        [README.read_text(), *(r for group in RECIPES.values() for r in group.values())]
    )
    lines = typed.replace("\\\n", " ")
    commands = re.findall(r"^ipa-mlx (?:generate|sweep) .*$", lines, re.MULTILINE)
    inputs = set()
    for command in commands:
        words = shlex.split(command)
        for option, value in pairwise(words):
            if option in {"-i", "--mask", "--control", "--image", "--encoder-mask"}:
                inputs.add(re.search(r"\w+\.png", value)[0])
    assert len(commands) > 10 and len(inputs) > 3
    assert inputs <= {path.name for path in exported.iterdir()}


def test_what_they_are(exported: Path) -> None:
    originals = {np.asarray(Image.open(path)).tobytes() for path in demo.references()}
    for name in ("style.png", "chair.png", "object.png"):
        assert np.asarray(Image.open(exported / name)).tobytes() in originals
    left, right = (np.asarray(Image.open(exported / f"{n}.png")) for n in ("left", "right"))
    assert (left + right == 255).all() and left[:, 0].all() and right[:, -1].all()


def test_nothing_is_overwritten(exported: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "--export", "."])
    assert done.exit_code == 2 and "style.png" in done.stderr
    into = CliRunner().invoke(app, ["demo", "--export", "new/folder", "--json"])
    assert into.exit_code == 0 and (exported / "new" / "folder" / "edges.png").is_file()


@pytest.mark.parametrize(
    "command",
    [r for name in ("generate", "explain") for r in RECIPES[name].values() if "sdxl" not in r],
)
def test_recipes_run(exported: Path, command: str) -> None:
    words = shlex.split(command.replace("\\\n", " "))[1:]
    if words[0] == "generate":
        words += ["--steps", "2", "-o", "made.png"]
    elif words[0] == "sweep":
        words += ["--steps", "1", "--scales", "0,1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
