"""`ipa-mlx generate --image` and its relatives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import ipa
from ipa import demo
from ipa.app.cli import app
from ipa.app.editing import steps_done
from ipa.app.output import METADATA_KEY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.open(demo.references()[3]).convert("RGB").save("start.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    Image.fromarray(mask).save("mask.png")
    return tmp_path


def test_the_command_makes_what_the_library_makes(folder: Path) -> None:
    words = "generate -p heart --image start.png --mask-image mask.png --strength 0.5 --steps 4"
    more = "--padding-mask-crop 4 --mask-blur 1 --overlay --guidance 3 -s 2"
    done = CliRunner().invoke(app, [*words.split(), *more.split()])
    assert done.exit_code == 0, done.output
    start, mask = Image.open("start.png"), Image.open("mask.png")
    own = {"strength": 0.5, "padding_mask_crop": 4, "mask_blur": 1.0, "overlay": True}
    call = own | {"num_inference_steps": 4, "guidance_scale": 3, "seed": 2}
    result = ipa.load("demo")("heart", image=start, mask_image=mask, **call)
    made = Image.open(folder / "out.png")
    assert np.array_equal(np.asarray(made), np.asarray(result.images[0]))
    kept = json.loads(made.text[METADATA_KEY])["request"]
    assert own.items() <= kept.items()
    assert kept["image_sha256"] == result.info["request"]["image_sha256"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--mask-image mask.png", "mask_image needs image"),
        ("--image start.png --strength 2", "strength must be"),
        ("--image none.png", "cannot be read"),
        ("--overlay", "needs mask_image"),
    ],
)
def test_mistakes(folder: Path, words: str, message: str) -> None:
    done = CliRunner().invoke(app, ["generate", "-p", "heart", *words.split()])
    assert done.exit_code == 2 and message in " ".join(done.output.split())
    assert not (folder / "out.png").exists()


def test_a_bar_counts_the_steps_that_are_run() -> None:
    assert steps_done({"num_inference_steps": 8, "strength": 0.5, "image": None}) == 4
    assert steps_done({"num_inference_steps": 8, "strength": 0.5}) == 8
