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
from ipa.app.options.editing import steps_done
from ipa.pipeline.description import METADATA_KEY
from ipa.pipeline.request_file import read_request


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


def test_a_control_is_shown_where_to_paint(folder: Path) -> None:
    """The run's own mask is the control's; the PNG's request brings it all back.

    The pictures are deep and turned, as they come from a camera or a depth estimator.
    """
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.asarray(Image.open("start.png").convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep[:, :48]).save("deep.png", exif=exif)
    mask = np.zeros((64, 48), np.uint16)
    mask[20:40, 12:30] = 65535
    Image.fromarray(mask).save("mask.png", exif=exif)
    words = "generate -p heart --image deep.png --mask-image mask.png --strength 1 --steps 2 -s 2"
    more = "--guidance 3 --control deep.png:0.7 --control-preprocessor inpaint"
    more += " --padding-mask-crop 4 --width 64 --height 64"
    done = CliRunner().invoke(app, [*words.split(), *more.split()])
    assert done.exit_code == 0, done.output
    pipe = ipa.load("demo")
    pipe.load_controlnet(demo.controlnet(), name="edges")
    start, where = Image.open("deep.png"), Image.open("mask.png")
    result = pipe(
        "heart",
        image=start,
        mask_image=where,
        controls=ipa.Control(start, scale=0.7, mask=where),
        padding_mask_crop=4,
        **{"num_inference_steps": 2, "guidance_scale": 3, "seed": 2, "strength": 1.0},
        **{"width": 64, "height": 64},
    )
    made = Image.open(folder / "out.png")
    assert made.size == (64, 48)
    assert np.array_equal(np.asarray(made), np.asarray(result.images[0]))
    told = read_request(Path("out.png"), [folder])
    again = pipe(**told.arguments)
    assert np.array_equal(np.asarray(made), np.asarray(again.images[0]))
    (control,) = again.info["request"]["controls"]
    assert control["mask"]["width"] == 64 and control == result.info["request"]["controls"][0]


def test_an_array_with_holes_is_told_to_be_lost(folder: Path) -> None:
    pipe = ipa.load("demo")
    pipe.load_controlnet(demo.controlnet(), name="edges")
    holed = np.full((64, 64, 3), -1, np.float32)
    result = pipe("heart", controlnet_image=holed, num_inference_steps=1)
    written = {"prompt": "heart", "controls": [{"image": "start.png", "mask": "mask.png"}]}
    Path("written.json").write_text(json.dumps(written))
    (control,) = read_request(Path("written.json")).arguments["controls"]
    assert control.mask.shape == (64, 64) and control.mask.mean() == 400 / 4096
    Path("run.json").write_text(json.dumps(result.info))
    with pytest.raises(ipa.RequestError, match=r"a control picture with -1.*Control\.mask"):
        read_request(Path("run.json"), [folder])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--control start.png --control-preprocessor inpaint", "add --image and --mask-image"),
        ("--mask-image mask.png", "--mask-image needs image"),
        ("--image start.png --strength 2", "strength must be"),
        ("--image none.png", "cannot be read"),
        ("--overlay", "needs --mask-image"),
    ],
)
def test_mistakes(folder: Path, words: str, message: str) -> None:
    done = CliRunner().invoke(app, ["generate", "-p", "heart", *words.split()])
    assert done.exit_code == 2 and message in " ".join(done.output.split())
    assert not (folder / "out.png").exists()


def test_a_bar_counts_the_steps_that_are_run() -> None:
    assert steps_done({"num_inference_steps": 8, "strength": 0.5, "image": None}) == 4
    assert steps_done({"num_inference_steps": 8, "strength": 0.5}) == 8
