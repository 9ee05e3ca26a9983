"""What stands behind a picture's name and cannot be meant; options that would do nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import ipa
from ipa import Control, ImagePrompt, RequestError, demo
from ipa.app.cli import app
from ipa.app.options.parsing import parse_image_prompt
from ipa.prepare.scaling.unusual import unusual_numbers
from ipa.request.request import Request

QUICK = ("--steps", "1", "--guidance", "1", "--width", "32", "--height", "32")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx generate …` in an empty folder that holds style.png."""
    monkeypatch.chdir(tmp_path)
    Image.open(demo.references()[3]).save("style.png")
    return lambda *words: CliRunner().invoke(app, ["generate", *map(str, words)])


@pytest.mark.parametrize(
    ("typed", "reason", "meant"),
    [
        ("style.png:0,7", "a point, not a comma", "style.png:0.7"),
        ("base=style.png:0,7", "a point, not a comma", "base=style.png:0.7"),
        ("style.png:70%", "fractions, not percent", "style.png:0.7"),
        ("style.png@0-50%", "fractions, not percent", "style.png@0-0.5"),
        ("style.png@0%-50%", "fractions, not percent", "style.png@0-0.5"),
        ("style.png:0,4@0-0,5", "a point, not a comma", "style.png:0.4@0-0.5"),
        ("style.png@0-0.5:0.4", "the weight comes first", "style.png:0.4@0-0.5"),
        ("style.png:much", "a weight is :0.7", "style.png:0.7, or style.png:0.7@0-0.5"),
        ("style.png:0.4:0.5", "a weight is :0.7", "style.png:0.7, or style.png:0.7@0-0.5"),
        ("style.png@half", "a window @0-0.5", "style.png:0.7, or style.png:0.7@0-0.5"),
    ],
)
def test_what_follows_a_file_is_told(
    typed: str, reason: str, meant: str, call: Callable[..., Result]
) -> None:
    for option in ("-i", "--control"):
        done = call(*QUICK, option, typed)
        assert done.exit_code == 2 and "Traceback" not in done.stderr
        assert reason in done.stderr and done.stderr.endswith(f"remedy: write {meant}.\n")
    if "or" not in meant:
        (name, *_), again = meant.rpartition("=")[::2], parse_image_prompt(meant)
        assert again.adapter == (name or None)
        assert (again.scale, again.end) in {(0.7, 1.0), (None, 0.5), (0.4, 0.5)}


def test_a_file_that_is_not_there_is_told_as_such(call: Callable[..., Result]) -> None:
    for typed in ("none.png:0,7", "none.png", "none.png@half"):
        done = call(*QUICK, "-i", typed)
        assert done.exit_code == 2 and "cannot be read" in done.stderr


def test_a_window_of_percent(call: Callable[..., Result]) -> None:
    done = call(*QUICK, "-i", "style.png:0.4@0-50")
    assert done.exit_code == 2 and "50 looks like percent: write 0.5" in done.stderr
    with pytest.raises(RequestError) as raised:
        ImagePrompt(Image.new("RGB", (8, 8)), start=0.9, end=0.1)
    assert raised.value.remedy == ""


def test_weights_that_are_hardly_meant(call: Callable[..., Result]) -> None:
    """Told before the run, once, and kept in the picture."""
    for words in (("-i", "style.png:70"), ("-i", "style.png", "--scale", "70")):
        done = call(*QUICK, *words)
        assert done.exit_code == 0, done.output
        told = "warning: image prompt 1, weight 70: 0 to 1 is usual; did you mean 0.7?"
        assert done.stderr.count(told) == 1
    done = call("--steps", 1, "--guidance", "-3", "--control", "style.png:2.5", "--json")
    assert [word for word in json.loads(done.stdout)["warnings"] if "usual" in word] == [
        "control 1, weight 2.5: 0 to 1 is usual",
        "guidance -3: 1 to 15 is usual",
    ]


def test_the_library_says_it_too() -> None:
    picture = Image.new("RGB", (8, 8))
    pipe = ipa.load("demo")
    pipe.load_ip_adapter(demo.adapter("base"), scale=80)
    call = {"num_inference_steps": 1, "width": 32, "height": 32, "guidance_scale": 1.0}
    prompts = [ImagePrompt(picture), ImagePrompt(picture, scale=-1.5)]
    told = [text for text in pipe(image_prompts=prompts, **call).info["warnings"] if "us" in text]
    assert told == ["image prompt 1, weight 80: 0 to 1 is usual; did you mean 0.8?"]
    usual = Request(
        image_prompts=[ImagePrompt(picture, scale=s) for s in (0, 1, 2, -2, {"up": [0, 1.5]})],
        controls=[Control(picture, scale=2.0)],
        guidance_scale=30.0,
    )
    assert unusual_numbers(usual) == []
    nested = Request(image_prompts=[ImagePrompt(picture, scale={"up": [0.5, 9.0]})])
    assert unusual_numbers(nested) == [
        "image prompt 1, weight 9: 0 to 1 is usual; did you mean 0.09?"
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--mask", "3=style.png", "-i", "style.png"), "there is one -i: write --mask FILE, once"),
        (("--mask", "style.png"), "there is no -i: add one"),
        (("--mask", "style.png", *("-i", "style.png") * 2), "write --mask 2=FILE for the second"),
        (("--encoder-mask", "3=style.png", "-i", "style.png"), "there is one -i: write --encoder"),
        (("--strength", "0.6"), "--strength without --image"),
        (("--scale", "0.3"), "--scale without --image-prompt or --face"),
        (("--find-faces",), "--find-faces without --image-prompt"),
        (("-p", "a", "-p", "b"), 'write all of it in one: -p "a heart, a ring"'),
        (("-p", "a", "--prompt=b"), "--prompt was typed 2 times"),
    ],
)
def test_what_would_do_nothing_is_told(
    words: tuple[str, ...],
    told: str,
    call: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ipa.app.options.loading.load", None)
    done = call(*QUICK, *words)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert told in done.stderr


def test_what_has_an_effect_is_taken(call: Callable[..., Result]) -> None:
    words = ("-i", "style.png", "--scale", "0.3", "--image", "style.png", "--strength", "1")
    done = call("--steps", 1, *words, "-p", "--prompt")
    assert done.exit_code == 0, done.output


def test_finding_faces_for_an_adapter_of_pictures(call: Callable[..., Result]) -> None:
    done = call(*QUICK, "-i", "style.png", "--find-faces")
    assert done.exit_code == 2
    assert "--find-faces is about faces for FaceID adapters: it has no effect" in done.stderr
