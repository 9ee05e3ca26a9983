"""A picture keeps the command that made it: `show` says it, `generate --from` runs it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner, Result

from ipa import demo
from ipa.app.cli import app
from ipa.pipeline.description import METADATA_KEY
from ipa.request.pictures import picture_sha256
from oracle import loras
from oracle.pipelines import diffusers_pipeline

QUICK = ("--steps", "2", "--guidance", "3", "--width", "32", "--height", "48")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx …` in an empty folder that holds style.png and left.png."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Image.open(demo.references()[3]).save("style.png")
    Image.new("L", (32, 48), 90).save("left.png")
    Image.new("L", (64, 64), 200).save("half.png")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def told_of(path: str) -> dict[str, Any]:
    return json.loads(Image.open(path).text[METADATA_KEY])


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def with_text(path: str, told: object) -> None:
    chunk = PngInfo()
    chunk.add_itxt(METADATA_KEY, told if isinstance(told, str) else json.dumps(told))
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunk)


def test_the_command_that_is_shown_makes_the_picture_again(
    call: Callable[..., Result], tiny: Path
) -> None:
    """With everything that options can say; a shell reads the line."""
    pairs = loras.random_pairs(loras.layers(diffusers_pipeline(tiny)), seed=1)
    loras.write(Path("a.safetensors"), loras.kohya(loras.weak(pairs), "sd"))
    words = ("-m", tiny, "-p", "it's a $star", "--negative-prompt=-grey", "-i", "style.png:0.7")
    words += ("-a", f"one={tiny / 'plus.safetensors'}", "--lora", "a.safetensors:0.5")
    words += ("--mask", "1=left.png", "--image", "style.png", "--strength", "1", "--sharpen", 0.5)
    words += ("--no-vae-tiling", "--overlay", "--mask-image", "half.png", "--layers", "linear")
    done = call("generate", *words, *QUICK, "--num-images", 2, "-s", 5, "-o", "a.png")
    assert done.exit_code == 0, done.output
    shown = call("show", "a-2.png").stdout
    line = next(line for line in shown.splitlines() if line.startswith("ipa-mlx generate"))
    for part in ("it's a $star", "scale 0.7", "seed                6", "style.png (sha256 "):
        assert part in shown
    for start in ("guidance start", "guidance end", "cache", "forecast", "eta"):
        assert f"\n{start}" not in shown, "a default"
    again = call(*shlex.split(line)[1:], "-o", "b.png")
    assert again.exit_code == 0, again.output
    replayed = call("generate", "--from", "a-2.png", "-o", "c.png")
    assert replayed.exit_code == 0, replayed.output
    assert np.array_equal(pixels("b.png"), pixels("c.png"))
    # One of a batch of two and one alone: measured 0.
    assert np.abs(pixels("b.png").astype(int) - pixels("a-2.png")).max() <= 1
    first, second = (told_of(name)["request"] for name in ("a-2.png", "c.png"))
    assert first == second


def test_a_prompt_that_stands_alone(call: Callable[..., Result]) -> None:
    """Its words are kept as --prompt; older pictures kept them one by one, under no option."""
    assert call("generate", "it's a", "star", *QUICK, "-o", "a.png").exit_code == 0
    told = told_of("a.png")
    assert ["--prompt", "it's a star"] in told["command"]["options"]
    rest = [option for option in told["command"]["options"] if option[0] != "--prompt"]
    told["command"]["options"] = [["text", "it's a"], ["text", "star"], *rest]
    with_text("old.png", told)
    for name in ("a.png", "old.png"):
        assert """--prompt 'it'"'"'s a star'""" in call("show", name).stdout
        assert call("generate", "--from", name, "-o", f"again-{name}").exit_code == 0
        assert told_of(f"again-{name}")["request"]["prompt"] == "it's a star"
        assert np.array_equal(pixels(f"again-{name}"), pixels("a.png"))
    assert call("generate", "a ring", "--from", "old.png", "-o", "ring.png").exit_code == 0
    assert told_of("ring.png")["request"]["prompt"] == "a ring"


def test_what_is_typed_replaces(call: Callable[..., Result]) -> None:
    made = ("generate", "-p", "a ring", "-i", "style.png", "--curve", "fade_out", *QUICK, "-s", 3)
    assert call(*made, "-o", "a.png").exit_code == 0
    done = call("generate", "-p", "a star", "--from", "a.png", "--seed=4", "-o", "b.png")
    assert done.exit_code == 0, done.output
    same = ("generate", "-p", "a star", "-i", "style.png", "--curve", "fade_out", *QUICK, "-s", 4)
    assert call(*same, "-o", "c.png").exit_code == 0
    assert np.array_equal(pixels("b.png"), pixels("c.png"))
    kept = [sorted(told_of(name)["command"]["options"]) for name in ("b.png", "c.png")]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("--vae-tiling",), ("--vae-memory", "whole")),
        (("--no-vae-tiling",), ("--vae-tiling",)),
        (("--vae-tile", 32), ("--no-vae-tiling",)),
        (("--vae-memory", "tiles"), ("--vae-tile", 32)),
    ],
)
def test_another_spelling_replaces_too(
    call: Callable[..., Result], first: tuple[object, ...], then: tuple[object, ...]
) -> None:
    assert call("generate", "-p", "a ring", *QUICK, *first, "-o", "a.png").exit_code == 0
    done = call("generate", "--from", "a.png", *then, "-o", "b.png")
    assert done.exit_code == 0, done.output
    assert call("generate", "-p", "a ring", *QUICK, *then, "-o", "c.png").exit_code == 0
    assert told_of("b.png")["vae_memory"] == told_of("c.png")["vae_memory"]
    assert np.array_equal(pixels("b.png"), pixels("c.png"))


def test_pictures_are_kept_by_name_and_hash(call: Callable[..., Result], tmp_path: Path) -> None:
    """A home folder is `~`: a picture that is passed on does not name its maker."""
    home = tmp_path / "home"
    home.mkdir()
    Path("left.png").rename(home / "left.png")
    words = ("-i", "style.png:0.4", "--mask", f"1={home / 'left.png'}", *QUICK)
    assert call("generate", *words).exit_code == 0
    told = told_of("out.png")
    hashes = {
        n: picture_sha256(Image.open(p))
        for n, p in {"style.png": tmp_path / "style.png", "~/left.png": home / "left.png"}.items()
    }
    assert told["made_with"] == hashes
    assert ["--mask", "1=~/left.png"] in told["command"]["options"]
    assert str(home) not in json.dumps(told["command"])
    again = call("generate", "--from", "out.png", "-o", "again.png")
    assert again.exit_code == 0, again.output
    assert np.array_equal(pixels("out.png"), pixels("again.png"))


def test_pictures_that_have_moved_are_found_by_their_hash(
    call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("generate", "-i", "style.png:0.4@0-0.5", *QUICK).exit_code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    beside = call("generate", "--from", "../out.png", "-o", "beside.png")
    assert beside.exit_code == 0, beside.output
    (tmp_path / "style.png").rename(elsewhere / "renamed.png")
    missing = call("generate", "--from", "../out.png")
    assert missing.exit_code == 2 and "found: no such file" in missing.stderr
    Image.new("RGB", (9, 9)).save("style.png")
    other = call("generate", "--from", "../out.png")
    assert other.exit_code == 2 and "another picture of that name" in other.stderr
    for given in ("renamed.png", "."):
        done = call("generate", "--from", "../out.png", "--picture", given, "-o", "x.png")
        assert done.exit_code == 0, done.output
        assert np.array_equal(pixels("x.png"), pixels("../out.png"))


def test_a_sheet_says_its_command(call: Callable[..., Result]) -> None:
    words = ("-i", "style.png", "--scales", "0,1", "--steps", 1, "--seeds", 7)
    assert call("sweep", *words).exit_code == 0
    shown = call("show", "sweep.png").stdout
    assert "varied: scale" in shown
    assert "ipa-mlx sweep --image-prompt style.png --scales 0,1 --seeds 7 --steps 1" in shown
    refused = call("generate", "--from", "sweep.png")
    assert refused.exit_code == 2 and "one of sweep" in refused.stderr


def test_older_pictures_are_shown(call: Callable[..., Result]) -> None:
    assert call("generate", "-p", "a ring", *QUICK).exit_code == 0
    told = told_of("out.png")
    del told["command"], told["made_with"]
    with_text("old.png", told)
    shown = call("show", "old.png")
    assert shown.exit_code == 0 and "a ring" in shown.stdout and "again" not in shown.stdout
    assert json.loads(call("show", "old.png", "--json").stdout) == told
    refused = call("generate", "--from", "old.png")
    assert refused.exit_code == 2 and "an older version" in refused.stderr


HOSTILE: dict[str, object] = {
    "no json": "{",
    "a list": [1],
    "deep": "[" * 100_000,
    "nothing of ours": {"prompt": "x"},
    "no options": {"request": {}, "command": {"name": "generate"}},
    "odd options": {"request": {}, "command": {"name": "generate", "options": [[1, 2]]}},
    "many words": {"request": {}, "command": {"name": "generate", "options": [["-p", "x", "y"]]}},
    "a file to write": {
        "request": {},
        "command": {"name": "generate", "options": [["--output", "~/x.png"]]},
    },
    "a picture of a picture": {
        "request": {},
        "command": {"name": "generate", "options": [["--from", "x.png"]]},
    },
    "unknown": {"request": {}, "command": {"name": "generate", "options": [["--run", "x"]]}},
    "pictures without hashes": {
        "request": {},
        "command": {"name": "generate", "options": [["-i", "style.png"]]},
        "made_with": {"style.png": 5},
    },
    "pictures in a list": {
        "request": {},
        "command": {"name": "generate", "options": []},
        "made_with": ["style.png"],
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_others_wrote_is_refused(name: str, call: Callable[..., Result]) -> None:
    with_text("x.png", HOSTILE[name])
    done = call("generate", "--from", "x.png")
    assert done.exit_code == 2 and done.stderr.startswith("error: "), done.output
    assert call("show", "x.png").exit_code in {0, 2}


@pytest.mark.parametrize("told", [{"request": [1]}, {"request": {"width": 1}}, {"axes": [1]}])
def test_a_damaged_description_is_told(told: object, call: Callable[..., Result]) -> None:
    with_text("x.png", told)
    done = call("show", "x.png")
    assert done.exit_code == 2 and "is damaged" in done.stderr


def test_inspect_points_to_show(call: Callable[..., Result]) -> None:
    done = call("inspect", "style.png")
    assert done.exit_code == 3 and "ipa-mlx show style.png" in done.stderr
    assert call("show", "style.png").exit_code == 2
    assert call("show", "none.png").exit_code == 2
