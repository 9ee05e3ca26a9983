"""`ipa-mlx explain`, and the options of weights that `generate` shares with it."""

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
from ipa.pipeline.plan import Plan, make_plan
from ipa.sheets.heat_map import colour


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx …` in an empty folder that holds a.png and b.png, in 100 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name, path in zip("ab", demo.references(), strict=False):
        Image.open(path).save(f"{name}.png")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def explained(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_numbers_for_machines(call: Callable[..., Result]) -> None:
    """SDXL by name: no file of it is needed. Site 69 is the first of up_blocks.0.attentions.1."""
    found = explained(
        call("explain", "-m", "sdxl", "--layers", "style", "--curve", "0:1,1:0", "-n", 4, "--json")
    )
    assert (found["built_as"], found["steps"], len(found["sites"])) == ("SDXL", 4, 70)
    (prompt,) = found["image_prompts"]
    assert (prompt["layers"], prompt["curve"]) == ("style", [[0.0, 1.0], [1.0, 0.0]])
    for site, values in zip(found["sites"], prompt["lambda"], strict=True):
        on = 69 <= site["number"] <= 87
        assert on == site["path"].startswith("up_blocks.0.attentions.1.")
        assert values == ([1.0, 0.75, 0.5, 0.25] if on else [0.0] * 4)


def test_lines_for_people(call: Callable[..., Result]) -> None:
    done = call(
        *("explain", "-m", "sd15", "--layers", "layout", "--curve", "fade_out"),
        *("-n", 8, "--scheduler", "ddim"),
    )
    lines = done.stdout.splitlines()
    assert "sd15: 16 cross-attentions, built as SD1.5" in lines[0]
    rows = [line.split() for line in lines[3:]]
    assert [row[:3] for row in rows[4:8]] == [
        ["4", "down.2.attn.0", "9"],
        ["5", "down.2.attn.1", "11"],
        ["6", "mid.attn.0", "31"],
        ["7", "up.1.attn.0", "13"],
    ]
    assert rows[5][3:] == ["█████▆▄▂", "0.25", "1"]
    assert rows[4][3:] == ["▂▂▂▂▂▂▁▁", "0.0625", "0.25"]
    assert rows[6][3:] == ["········", "0", "0"]


def test_many_steps_fit_the_terminal(call: Callable[..., Result]) -> None:
    done = call("explain", "-n", 500, "-i", "a.png:-0.5@0-0.5")
    assert "one of 9 shown" in done.stdout and "a.png:-0.5@0-0.5" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "-0.5" in done.stdout


def test_a_picture_of_it(call: Callable[..., Result], tmp_path: Path) -> None:
    words = ("-i", "a.png", "-i", "b.png:0.5", "--curve", "fade_in", "-n", 6, "-o", "heat.png")
    done = call("explain", *words)
    assert str(tmp_path / "heat.png") in done.stdout
    picture = Image.open(tmp_path / "heat.png")
    kept = json.loads(picture.text[METADATA_KEY])
    assert [prompt["title"] for prompt in kept["image_prompts"]] == ["a.png", "b.png:0.5"]
    colours = {pixel for _, pixel in picture.getcolors(1 << 20)}
    assert {colour(1.0), colour(1 / 3), colour(2 / 3)} <= colours
    assert call("explain", "-o", "heat.jpg").exit_code == 2


ERRORS = {
    ("--layers", '{"boost": 0.5}'): "stands alone or with its",
    ("--layers", "{style: 1}"): "layers are names, or a JSON object",
    ("--layers", "stlye"): "did you mean 'style'",
    ("--curve", "fade"): "no curve of this name",
    ("--curve", "0:1,x:2"): "points fraction:weight",
    ("--layers", "linear", "--layers", "ease in"): "once for all -i, or once for each",
    ("-m", "sd15", "--scale", '{"up": {"block_0": 1}}'): "block_0, which SDXL has",
    ("--steps", "0"): "--steps must be an integer from 1",
    ("--profile", "comfy"): "did you mean 'comfyui'",
}


@pytest.mark.parametrize("words", ERRORS, ids=" ".join)
def test_what_cannot_be(call: Callable[..., Result], words: tuple[str, ...]) -> None:
    done = call("explain", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert ERRORS[words] in done.stderr.replace("\n", " ")


def test_generate_takes_what_explain_showed(call: Callable[..., Result], tmp_path: Path) -> None:
    """One of each for all prompts, or one for each in order."""
    weights = (
        *("-i", "a.png:0.8", "-i", "b.png@0-0.5", "--layers", "ease in", "--layers", "6:1"),
        *("--curve", "0:1,1:0.5", "--scale", '{"mid.attn.0": 0.5, "up.1.attn.1": 0.9}', "-n", 3),
    )
    done = call("generate", *weights, "-g", 3, "-s", 4, "-o", "out.png")
    assert done.exit_code == 0, done.output
    request = json.loads(Image.open(tmp_path / "out.png").text[METADATA_KEY])["request"]
    shown = explained(call("explain", *weights, "--json"))["image_prompts"]
    for prompt, kept in zip(shown, request["image_prompts"], strict=True):
        for key in ("scale", "layers", "curve", "start", "end"):
            assert kept[key] == prompt[key]
    pipe = ipa.load("demo")
    pipe.load_ip_adapter(demo.adapter("base"), scale={"mid.attn.0": 0.5, "up.1.attn.1": 0.9})
    prompts = [
        ImagePrompt(
            Image.open("a.png"), scale=0.8, layers="ease in", curve=[(0.0, 1.0), (1.0, 0.5)]
        ),
        ImagePrompt(Image.open("b.png"), end=0.5, layers="6:1", curve=[(0, 1), (1, 0.5)]),
    ]
    expected = pipe(image_prompts=prompts, num_inference_steps=3, guidance_scale=3, seed=4)
    found = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(found, np.asarray(expected.images[0]))


def test_windows_are_those_of_a_profile(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the noise levels that the sampler visits; generate has the same."""
    plans: list[Plan] = []

    def seen(*given: Any) -> Plan:
        plans.append(make_plan(*given))
        return plans[-1]

    monkeypatch.setattr("ipa.pipeline.batch_plan.make_plan", seen)
    words = ("-i", "a.png@0.3-0.6", "--profile", "comfyui", "-n", 10, "--scheduler", "euler_karras")
    found = explained(call("explain", *words, "--json"))
    plain = explained(call("explain", *words[:2], *words[4:], "--json"))
    assert call("generate", *words, "-g", 1).exit_code == 0
    (planned,) = plans[-1].prompts
    (shown,), (own,) = found["image_prompts"], plain["image_prompts"]
    assert (found["profile"], plain["profile"]) == ("comfyui", "default")
    assert shown["lambda"] == planned.table.tolist() != own["lambda"]


def test_a_sampler_that_evaluates_more_often(call: Callable[..., Result]) -> None:
    """Stable Diffusion 1's own does so once more than it has steps."""
    found = explained(call("explain", "-m", "sd15", "-n", 4, "--json"))
    assert found["steps"] == len(found["image_prompts"][0]["lambda"][0]) == 5


def test_generate_checks_weights_first(call: Callable[..., Result]) -> None:
    """Before an adapter is looked for, which is not there."""
    done = call("generate", "-i", "a.png", "--layers", "composition", "-a", "none.safetensors")
    assert done.exit_code == 2 and "known for SD1.5 and SDXL only" in done.stderr
    done = call("generate", "--layers", "ease in")
    assert done.exit_code == 2 and "found: 1 for 0 -i" in done.stderr


def test_moved_layers_are_marked(call: Callable[..., Result], tmp_path: Path) -> None:
    words = ("explain", "-m", "sdxl", "--layers", "style transfer precise", "-n", 2)
    lines = call(*words).stdout.splitlines()
    assert [line for line in lines if "*" in line] == [
        *(line for line in lines if "down.2.attn.1 *" in line),
        *(line for line in lines if line.startswith("* its tokens go to the unconditional half")),
    ]
    found = explained(call(*words, "--json", "-o", "heat.png"))
    moved = dict(
        zip((s["number"] for s in found["sites"]), found["image_prompts"][0]["moved"], strict=True)
    )
    assert [number for number, flag in moved.items() if flag] == list(range(29, 49, 2))
    assert explained(call("explain", "--json"))["image_prompts"][0]["moved"] is None
    assert (tmp_path / "heat.png").exists()
    given = ("--layers", '{"style transfer precise": 0.8, "boost": -0.5}', "--json")
    (prompt,) = explained(call(*words[:3], *given, "-n", 1))["image_prompts"]
    rows = zip(moved.values(), prompt["lambda"], strict=True)
    assert {(flag, weight) for flag, (weight,) in rows} == {
        (True, -0.5),
        (False, 0.8),  # up.0.attn.1, the type's own
        (False, 0.0),
    }


def test_generate_takes_embeds_scaling(call: Callable[..., Result], tmp_path: Path) -> None:
    """Once for all, or once for each."""
    words = (
        "generate",
        "-i",
        "a.png",
        "-i",
        "b.png",
        "-n",
        1,
        "-g",
        1,
        "-o",
        "out.png",
        "--overwrite",
    )
    for given, modes in {("k+v",): ["K+V"] * 2, ("V only", "K+V"): ["V only", "K+V"]}.items():
        options = [word for mode in given for word in ("--embeds-scaling", mode)]
        done = call(*words, *options)
        assert done.exit_code == 0, done.output
        request = json.loads(Image.open(tmp_path / "out.png").text[METADATA_KEY])["request"]
        assert [prompt["embeds_scaling"] for prompt in request["image_prompts"]] == modes
    done = call(*words, *("--embeds-scaling", "K+W"))
    assert done.exit_code == 2 and "did you mean 'K+V'" in done.stderr
    done = call("generate", "--embeds-scaling", "K+V")
    assert done.exit_code == 2 and "found: 1 for 0 -i" in done.stderr
