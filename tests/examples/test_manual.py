"""The manual is built without a warning, loads nothing, and says what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import ipa
from ipa import sheets
from oracle.pages import PAGES, ROOT

pytest.importorskip("sphinx", reason="the extra [docs]")

MOST_BYTES = 100_000
LOADS = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=["']([^"']+)""")
QUESTIONS = {
    "how do I use my own SDXL file": ("index", "start/your-own-model"),
    "style of one, object of another": ("index", "start/style-and-subject"),
    "why is my picture grey": ("index", "how-to/grey-or-black"),
    "prove my port right": ("index", "how-to/parity-lab"),
}
"""What newcomers ask, and the pages that they are one click apart on."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pages, as `make docs` makes them."""
    target = tmp_path_factory.mktemp("manual")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", target / "trees", ROOT / "docs", target / "html"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return target / "html"


def test_every_page_is_there_and_is_found(built: Path) -> None:
    pages = {page.path.relative_to(ROOT / "docs").with_suffix("") for page in PAGES[1:]}
    assert {page for page in pages if not (built / page).with_suffix(".html").is_file()} == set()
    index = (built / "searchindex.js").read_text("utf-8")
    assert {str(page) for page in pages if f'"{page}"' not in index} == set()


def test_nothing_is_loaded_from_elsewhere(built: Path) -> None:
    outside = set()
    for page in built.rglob("*.html"):
        outside |= {link for link in LOADS.findall(page.read_text("utf-8")) if "//" in link}
    for sheet in built.rglob("*.css"):
        text = sheet.read_text("utf-8")
        outside |= {u for u in re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", text) if "//" in u}
    assert outside == set()


def test_every_public_name_has_its_place(built: Path) -> None:
    text = (built / "reference" / "python.html").read_text("utf-8")
    modules = {"sheets", "parity"}  # have pages of their own
    names = set(ipa.__all__) - modules - {"controls", "demo", "face_embedder"}
    assert {n for n in names if f'id="ipa.{n}"' not in text and f"ipa.{n}<" not in text} == set()
    text = (built / "reference" / "sheets.html").read_text("utf-8")
    assert {n for n in sheets.__all__ if n not in text} == set()


def test_generated_parts_are_filled_in(built: Path) -> None:
    """One thing of each, as a reader would look for it."""
    for page, words in (
        ("command-line", "--padding-mask-crop"),
        ("samplers", "DPMSolverMultistepScheduler"),
        ("presets", "0.91 in the middle"),
        ("adapters", "faceid-portrait-unnorm-sdxl"),
        ("errors", "there is no such argument"),
    ):
        assert words in (built / "reference" / f"{page}.html").read_text("utf-8")
    differing = (built / "understand" / "why-pictures-differ.html").read_text("utf-8")
    assert all(f">D{number}<" in differing for number in range(1, 31))


@pytest.mark.parametrize("question", QUESTIONS)
def test_newcomers_questions_are_one_click_away(built: Path, question: str) -> None:
    start, end = QUESTIONS[question]
    page = (built / f"{start}.html").read_text("utf-8")
    main = page.partition('<article role="main"')[2].partition("</article>")[0]
    assert f'href="{end}.html"' in main
    readme = PAGES[0].text
    assert f"](docs/{end}.md)" in readme


def test_pictures_are_small_and_their_script_makes_them(tmp_path: Path) -> None:
    kept = sorted((ROOT / "docs" / "pictures").iterdir())
    assert kept
    assert {p.name for p in kept if p.stat().st_size > MOST_BYTES} == set()
    shown = "".join(page.text for page in PAGES)
    assert {p.name for p in kept if f"pictures/{p.name}" not in shown} == set()
    script = ROOT / "docs" / "pictures.py"
    done = subprocess.run([sys.executable, script, tmp_path, "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = sorted(tmp_path.iterdir())
    assert [p.name for p in made] == [p.name for p in kept]
    for path, other in zip(made, kept, strict=True):
        assert Image.open(path).size == Image.open(other).size
