"""The report of a comparison: one page, whole, safe, and in words."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ipa.parity.assertion import table
from ipa.parity.capture.capture import Side
from ipa.parity.compare.comparison import Comparison, Pictures, Swap
from ipa.parity.compare.measures import METRICS, Difference, Measures
from ipa.parity.report.issue_text import issue_text
from ipa.parity.report.machine import json_report, junit
from ipa.parity.report.page.html import page, report

SITE = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2"
HOSTILE = "<script>alert(1)</script> \"'&"
VOID = {"meta", "input", "img", "br", "hr", "link", "path", "line", "rect", "circle", "polyline"}


def difference(stage: str, error: float, *, bad: bool = False) -> Difference:
    measures = Measures(error, error, 1.0, 80.0, (error, error, error, error), 1.0, 0.0)
    return Difference(stage, (1, 4, 8, 8), measures, 1e-7, 1.2e-6, bad)


def comparison(*, good: bool) -> Comparison:
    names = ["text.positive/states", "image.0/pixels", "condition/unet.x"]
    for step in range(3):
        names += [f"step.{step:03d}/{part}" for part in ("unet.conv_in", f"{SITE}.image.0")]
        names += [f"step.{step:03d}/{part}" for part in ("prediction", "latents")]
    found = [difference(name, 3e-7) for name in [*names, "decode/image"]]
    if not good:
        first = names.index(f"step.000/{SITE}.image.0")
        found = [
            one if n < first else difference(one.stage, 0.31, bad=True)
            for n, one in enumerate(found)
        ]
    picture = np.zeros((8, 8, 3), np.uint8)
    return Comparison(
        a=Side("torch float32", "torch", "float32", {"chip": HOSTILE, "torch": "2"}, 3.0),
        b=Side("mlx float32", "mlx", "float32", {"chip": "M4"}, 2.0),
        mode="free-running",
        request={"prompt": HOSTILE},
        differences=tuple(found),
        only_a=("text.positive/text_encoder.layers.1",),
        pictures=Pictures(picture, picture + 1, 48.0, 0.99, 1.0),
        swaps=(Swap("text encoders", 0.2),),
        unswapped=0.3,
    )


class Page(HTMLParser):
    """Every element is closed, nothing is loaded, no handler stands in a tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.scripts = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in {"src", "href", "action"}:
                assert (value or "").startswith(("data:", "#")), value
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("good", [True, False])
def test_the_page_is_whole_and_loads_nothing(good: bool) -> None:
    text = page(comparison(good=good))
    found = Page(text)
    assert found.open == []
    assert found.scripts <= 2  # its own, and its data
    assert re.search(r"https?://(?!www\.w3\.org/2000/svg)", text) is None
    assert "default-src 'none'" in html.unescape(text)
    assert "<script>alert" not in text
    assert all(one.stage.partition("/")[2] in text for one in comparison(good=good).differences)


def test_the_verdict_says_where_they_part() -> None:
    words = " ".join(Page(page(comparison(good=False))).words)
    assert "mlx float32 departs from torch float32 at step.000/unet." in words
    assert "image prompt 0" in words
    assert "mlx float32 agrees with torch float32" in " ".join(
        Page(page(comparison(good=True))).words
    )


def test_nothing_in_common_is_no_agreement() -> None:
    assert "Nothing was compared" in page(replace(comparison(good=True), differences=()))


def test_every_table_has_the_columns_of_its_metrics() -> None:
    found = comparison(good=False)
    data = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page(found), re.DOTALL)
    assert data is not None
    told = json.loads(data[1])
    assert told["columns"] == [one.name for one in METRICS if "page" in one.places]
    assert len(told["digits"]) == len(told["columns"]) == len(told["rows"][0]) - 5
    words = " ".join(Page(page(found)).words)
    heads = {
        "text": re.split(r" {2,}", next(iter(table(found.differences)))),
        "issue": re.findall(r"[^|]+(?= \|)", _line(issue_text(found), "| stage |")),
    }
    for place, head in heads.items():
        titles = [one.title for one in METRICS if place in one.places]
        assert [word.strip() for word in head] == ["stage", *titles]
    assert all(one.title in words and one.meaning in words for one in METRICS)
    report_of = json_report(found)["stages"][0]["measures"]
    assert report_of.keys() == {field.name for field in fields(Measures)}
    failure = next(ElementTree.fromstring(junit(found)).iter("failure")).text or ""
    assert all(one.title in failure for one in METRICS)


def _line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_many_stages_stay_small(tmp_path: Path) -> None:
    one = comparison(good=True)
    many = [
        difference(f"step.{n // 1000:03d}/unet.mid_block.resnets.{n % 1000}.conv1", 2e-7)
        for n in range(20_000)
    ]
    report(replace(one, differences=tuple(many)), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


@pytest.mark.skipif(shutil.which("chromium") is None, reason="the page's text is tested above")
def test_in_a_browser(tmp_path: Path) -> None:
    """Its script runs under its own policy: the table is filled."""
    report(comparison(good=False), tmp_path / "report.html")
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path}", "--dump-dom", f"file://{tmp_path}/report.html"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    assert json.dumps(f"step.002/{SITE}.image.0")[1:-1] in done.stdout
