"""Every example runs as its first line says, and is short; sheets are made in one step here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "examples"
PACKAGES = {"ipa": "ipa", "ipa_convert": "convert", "ipa_mlx": "ipa_mlx", "ipa_torch": "ipa_torch"}
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < 40
    done = subprocess.run(
        [sys.executable, path, "out", "1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    named = [tmp_path / line for line in done.stdout.splitlines() if line.endswith(".png")]
    assert sorted(named) == sorted((tmp_path / "out").iterdir())
    for picture in named:
        size = Image.open(picture).size
        assert size == (64, 64) or (picture.stem.endswith("_sheet") and min(size) > 300)
    if match := re.search(r"largest difference of a colour: (\d+) of 255", done.stdout):
        assert int(match[1]) <= 1


def test_they_are_numbered_without_gaps() -> None:
    assert [path.name[:3] for path in EXAMPLES] == [f"{n:02d}_" for n in range(1, 14)]


@pytest.mark.parametrize("name", ["10_engine", "13_app"])
def test_applications_are_typed(name: str, tmp_path: Path) -> None:
    """As their authors check them: strictly, with what the package says of its types.

    The packages lie there as they do where they are installed, and their own errors, such as of
    extras that are missing, are not the program's.
    """
    for package, folder in PACKAGES.items():
        (tmp_path / package).symlink_to(FOLDER.parent / folder)
    words = ["--strict", "--config-file", "", "--follow-imports", "silent"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words, FOLDER / f"{name}.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
