"""`--control` and `--controlnet` of `ipa-mlx generate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import ipa
from ipa import Control, demo
from ipa.app.cli import app
from ipa.pipeline.description import METADATA_KEY
from oracle import t2i_adapters
from oracle.controlled import outline

QUICK = ("-p", "a heart", "--steps", "2", "--guidance", "3")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx generate …` in an empty folder that holds edges.png."""
    monkeypatch.chdir(tmp_path)
    outline(Image.open(demo.references()[3])).save("edges.png")
    return lambda *words: CliRunner().invoke(app, ["generate", *QUICK, *map(str, words)])


def controls_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(Image.open(path).text[METADATA_KEY])["request"]["controls"]


def test_the_command_makes_what_the_library_makes(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    done = call("--control", "edges.png:0.7@0-0.5")
    assert done.exit_code == 0, done.output
    (kept,) = controls_of(tmp_path / "out.png")
    found = [kept[name] for name in ("control", "scale", "start", "end")]
    assert found == ["edges", 0.7, 0.0, 0.5]
    pipe = ipa.load("demo")
    pipe.load_controlnet(demo.controlnet())
    control = Control(Image.open("edges.png"), scale=0.7, end=0.5)
    expected = pipe("a heart", controls=control, num_inference_steps=2, guidance_scale=3)
    assert np.array_equal(Image.open(tmp_path / "out.png"), expected.images[0])


def test_edges_of_a_photo_in_guess_mode(call: Callable[..., Result], tmp_path: Path) -> None:
    """One of each for all controls, or one for each in order."""
    photo = Image.open(demo.references()[3])
    photo.save("photo.png")
    words = ("--control", "photo.png", "--control", "edges.png:0.5", "--guess-mode")
    done = call(*words, "--control-preprocessor", "edges", "--control-preprocessor", "none")
    assert done.exit_code == 0, done.output
    kept = controls_of(tmp_path / "out.png")
    assert [(own["preprocessor"], own["guess_mode"]) for own in kept] == [
        ("edges", True),
        (None, True),
    ]
    pipe = ipa.load("demo")
    pipe.load_controlnet(demo.controlnet())
    controls = [
        Control(outline(photo), scale=scale, guess_mode=True) for scale in (1.0, 0.5)
    ]  # by the tests' own rule
    expected = pipe("a heart", controls=controls, num_inference_steps=2, guidance_scale=3)
    assert np.array_equal(Image.open(tmp_path / "out.png"), expected.images[0])


def test_several_controlnets_by_name(call: Callable[..., Result], tmp_path: Path) -> None:
    words = ("--controlnet", f"a={demo.controlnet()}", "--controlnet", f"b={demo.controlnet()}")
    done = call(*words, "--control", "b=edges.png:0.4", "--control", "a=edges.png")
    assert done.exit_code == 0, done.output
    kept = [(own["control"], own["scale"]) for own in controls_of(tmp_path / "out.png")]
    assert kept == [("b", 0.4), ("a", 1.0)]


def test_what_is_missing_is_told(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    edges = ("--control", "edges.png")
    for words, told in (
        (("--control", "nothing.png"), "no such file"),
        (("--control", "other=edges.png"), "other"),
        (("--controlnet", str(demo.controlnet())), "needs its picture"),
        (("--guess-mode",), "add --control"),
        ((*edges, "--control-preprocessor", "canny"), "opencv is not installed"),
        ((*edges, "--control-preprocessor", "depth"), "one of canny, edges, inpaint, none"),
        (("--control-preprocessor", "edges"), "found: 1 for 0 --control"),
    ):
        done = call(*words)
        assert done.exit_code != 0
        assert told in " ".join(done.output.split())


def test_a_t2i_adapter_is_known_by_its_file(call: Callable[..., Result], tmp_path: Path) -> None:
    """Beside a ControlNet; the demo's UNet says how wide it must be."""
    config = json.loads((demo.model() / "unet" / "config.json").read_text())
    widths = config["block_out_channels"]
    net = t2i_adapters.adapter(2, channels=widths[:1], num_res_blocks=1)
    net.save_pretrained(tmp_path / "sketch")
    words = ("--controlnet", f"edges={demo.controlnet()}", "--controlnet", tmp_path / "sketch")
    done = call(*words, "--control", "sketch=edges.png:0.5", "--control", "edges=edges.png")
    assert done.exit_code == 0, done.output
    first, second = controls_of(tmp_path / "out.png")
    assert (first["control"], first["kind"], first["scale"]) == ("sketch", "t2i_adapter", 0.5)
    assert (second["control"], second["kind"]) == ("edges", "controlnet")
