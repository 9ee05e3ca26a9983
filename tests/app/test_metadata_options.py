"""What pictures say of themselves on the command line, and what is read out of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ipa import demo
from ipa.app.cli import app
from ipa.metadata.reading import read_told
from metadata.test_dialects import A1111, COMFYUI, png

QUICK = ("--steps", "2", "--guidance", "3", "--width", "32", "--height", "48")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx …` in a folder of pictures."""
    monkeypatch.chdir(tmp_path)
    Image.open(demo.references()[3]).resize((90, 60)).rotate(5).save("style.png")
    Image.open(demo.references()[1]).resize((32, 48)).save("start.png")
    Image.new("L", (32, 48), 200).save("mask.png")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_png_alone_in_an_empty_folder(
    call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is made from it says the first command, so that the pictures may do it too."""
    words = ("-p", "a ring", "-i", "style.png:0.7", "--fit", "pad", "--sharpen", 0.3, *QUICK)
    words += ("--image", "start.png", "--mask-image", "mask.png", "--control", "start.png")
    made = call("generate", *words, "--embed-references", "-o", "a.png")
    assert made.exit_code == 0, made.output
    assert "embedded" in call("show", "a.png").stdout
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy("a.png", alone)
    monkeypatch.chdir(alone)
    done = call("generate", "--from", "a.png", "-o", "b.png", "--offline")
    assert done.exit_code == 0, done.output
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    refused = call("generate", "--from", "a.png", "--layers", "style")
    assert refused.exit_code == 2 and "found: layers" in refused.stderr
    other = call("generate", "--from", "a.png", "-p", "a star", "-o", "c.png")
    assert other.exit_code == 0 and not np.array_equal(pixels("a.png"), pixels("c.png"))
    told = [read_told(Path(name)).ours for name in ("a.png", "b.png")]
    assert all(told) and told[0]["made_with"] == told[1]["made_with"]  # type: ignore[index]
    given = call("generate", "--from", "b.png", "--picture", tmp_path, "-o", "d.png")
    assert given.exit_code == 0, given.output
    assert np.array_equal(pixels("a.png"), pixels("d.png"))


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.webp"])
def test_other_formats_say_the_same(name: str, call: Callable[..., Result]) -> None:
    made = call("generate", "-p", "a ring", "-i", "style.png", *QUICK, "-o", name)
    assert made.exit_code == 0 and made.stdout == f"{name}\n", made.output
    assert call("generate", "-p", "a ring", "-i", "style.png", *QUICK, "-o", "b.png").exit_code == 0
    assert Image.open(name).format == {"webp": "WEBP"}.get(name[2:], "JPEG")
    again = call("generate", "--from", name, "-o", "c.png")
    assert again.exit_code == 0, again.output
    assert np.array_equal(pixels("b.png"), pixels("c.png"))
    assert call("generate", "--from", name, "-o", "lossless.webp", "--quality", 100).exit_code == 0
    assert np.array_equal(pixels("b.png"), pixels("lossless.webp"))


def test_how_much_is_said(call: Callable[..., Result]) -> None:
    made = ("generate", "-p", "a secret", *QUICK)
    for option in (("--no-metadata",), ("--metadata", "none")):
        assert call(*made, *option, "-o", "none.png", "--overwrite").exit_code == 0
        assert b"secret" not in Path("none.png").read_bytes()
        assert not Image.open("none.png").text
    assert call(*made, "--metadata", "minimal", "-o", "less.png").exit_code == 0
    assert b"secret" not in Path("less.png").read_bytes()
    assert "trainedAlgorithmicMedia" in call("show", "less.png").stdout
    for wrong in (
        ("--metadata", "some"),
        ("--quality", "0"),
        ("--embed-references", "--no-metadata"),
        ("--embed-references", "-o", "x.jpg"),
    ):
        done = call(*made, *wrong)
        assert done.exit_code == 2 and done.stderr.startswith("error: "), done.output


def test_other_programs_pictures_are_shown(call: Callable[..., Result]) -> None:
    Path("a.png").write_bytes(png({"parameters": A1111}))
    shown = call("show", "a.png")
    assert shown.exit_code == 0, shown.output
    for words in ("A1111 or Forge", "dpmpp_sde_karras", "dreamshaper_8 (hash 879db523c3)", "ENSD"):
        assert words in shown.stdout
    Path("c.png").write_bytes(png({"prompt": json.dumps(COMFYUI)}))
    told = json.loads(call("show", "c.png", "--json").stdout)
    (foreign,) = told["foreign"]
    assert foreign["tool"] == "ComfyUI" and foreign["arguments"]["seed"] == 7
    assert any("style.png" in words for words in foreign["not_restored"])


def test_other_programs_pictures_are_run_again(call: Callable[..., Result]) -> None:
    """As far as they go, with what is lost in words; which model is not guessed."""
    Path("a.png").write_bytes(png({"parameters": A1111.replace("512x768", "32x48")}))
    refused = call("generate", "--from", "a.png")
    assert refused.exit_code == 2 and "dreamshaper_8 (hash 879db523c3)" in refused.stderr
    done = call("generate", "--from", "a.png", "--model", "demo", "--steps", 2, "-o", "b.png")
    assert done.exit_code == 0, done.output
    lost = " ".join(done.stderr.split())
    for words in ("ENSD: 31337", "RNG is not CPU", "LoRA pixel_art", "picture is not in the file"):
        assert f"{words}" in lost
    told = read_told(Path("b.png")).ours
    assert told is not None
    request = told["request"]
    wanted = {"seed": 42, "num_inference_steps": 2, "scheduler": "dpmpp_sde_karras", "clip_skip": 1}
    assert {name: request[name] for name in wanted} == wanted
    assert (request["prompt_syntax"], request["width"]) == ("a1111", 32)
