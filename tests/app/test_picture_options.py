"""What `ipa-mlx generate` does to pictures before the adapter, and how it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import ipa
from ipa import ImagePrompt, demo
from ipa.app.cli import app
from ipa.pipeline.description import METADATA_KEY

QUICK = ("--steps", "1", "--guidance", "3", "--width", "16", "--height", "16")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx generate …` in an empty folder that holds style.png and half.png."""
    monkeypatch.chdir(tmp_path)
    Image.open(demo.references()[3]).save("style.png")
    Image.fromarray(np.tile(np.arange(64) < 32, (64, 1))).save("half.png")
    return lambda *words: CliRunner().invoke(app, ["generate", *QUICK, *map(str, words)])


def test_options_are_the_librarys(call: Callable[..., Result], tmp_path: Path) -> None:
    done = call(
        *("-a", f"plus={demo.adapter('plus')}", "-i", "style.png", "-i", "style.png"),
        *("--encoder-mask", "2=half.png", "--enhance-tiles", 2, "--enhance-ratio", 0.5),
        *("--negative-image", "noise:shuffle:0.5:3", "--show-reference", "seen.png"),
    )
    assert done.exit_code == 0, done.output
    request = json.loads(Image.open(tmp_path / "out.png").text[METADATA_KEY])["request"]
    first, second = request["image_prompts"]
    assert first["encoder_masks"] is None and second["encoder_masks"][0]["width"] == 64
    for kept in (first, second):
        assert (kept["enhance_tiles"], kept["enhance_ratio"]) == (2, 0.5)
        assert kept["negative"] == "noise:shuffle:0.5:3"
    pipe = ipa.load("demo")
    pipe.load_ip_adapter(demo.adapter("plus"), name="plus")
    style, half = Image.open("style.png"), Image.open("half.png")
    prompts = [
        ImagePrompt(style, enhance_tiles=2),
        ImagePrompt(style, encoder_mask=half, enhance_tiles=2),
    ]
    views = [np.asarray(view) for prompt in prompts for view in pipe.encoder_views(prompt)]
    assert len(views) == 10
    assert np.array_equal(np.asarray(Image.open("seen.png")), np.concatenate(views, axis=1))


def test_tiles_are_shown_one_by_one(call: Callable[..., Result], tmp_path: Path) -> None:
    done = call("-i", "style.png", "--fit", "tile", "--show-reference", "seen.png")
    assert done.exit_code == 0, done.output
    width, height = Image.open(tmp_path / "seen.png").size
    assert width == 4 * height


MISTAKES: dict[str, tuple[tuple[Any, ...], str]] = {
    "mask of nothing": (("--encoder-mask", "half.png"), "--encoder-mask must number one"),
    "two masks": (
        ("-i", "style.png", *("--encoder-mask", "1=half.png") * 2),
        "--encoder-mask must number one of the image prompts, each once",
    ),
    "a closer look at nothing": (("--enhance-tiles", 2), "add one with --image-prompt"),
    "nothing taken from nothing": (("--neg-content-prompt", "a cat"), "are about pictures"),
    "tiles": (("-i", "style.png", "--enhance-tiles", 0), "from 1 to 16"),
    "a closer look at an embedding": (("-i", "style.png", "--enhance-tiles", 2), "states"),
    "a text that has no place": (
        ("-i", "style.png", "--neg-content-prompt", "a cat", "--neg-content-scale", 0.5),
        "--neg-content-prompt cannot be taken away",
    ),
    "scale of no text": (("-i", "style.png", "--neg-content-scale", 0.5), "no effect without"),
    "noise": (("-i", "style.png", "--negative-image", "noise:fog"), "no such noise"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_a_line(name: str, call: Callable[..., Result], tmp_path: Path) -> None:
    words, part = MISTAKES[name]
    done = call(*words)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and part in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out.png").exists()
