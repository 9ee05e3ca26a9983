"""`ipa-mlx generate --influence`: sheets, arrays and numbers of what image prompts added."""

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
from ipa.sheets.influence_sheet import influence_sheet

QUICK = ("generate", "--backend", "torch", "--steps", "3", "--guidance", "3")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx …` in an empty folder that holds style.png, chair.png and left.png."""
    monkeypatch.chdir(tmp_path)
    for name, number in (("style", 3), ("chair", 0)):
        Image.open(demo.references()[number]).save(f"{name}.png")
    Image.fromarray(np.tile(np.arange(64) < 32, (64, 1))).save("left.png")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def pipe() -> ipa.Pipeline:
    pipe = ipa.load("demo", backend="torch")
    pipe.load_ip_adapter(demo.adapter("base"))
    return pipe


def test_a_sheet_for_each_picture(call: Callable[..., Result], tmp_path: Path) -> None:
    done = call(*QUICK, "-i", "style.png", "--influence", "seen.png", "--num-images", 2, "-s", 4)
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == ["out-1.png", "out-2.png", "seen-1.png", "seen-2.png"]
    first, second = (np.asarray(Image.open(f"seen-{number}.png")) for number in (1, 2))
    assert first.shape == second.shape and not np.array_equal(first, second)
    for name, count in (("out-2", 1), ("seen-2", 2)):
        kept = json.loads(Image.open(tmp_path / f"{name}.png").text[METADATA_KEY])
        assert len(kept["influence"]) == count
    pair = ("-i", "style.png", "-s", 5, "-o", "alone.png")
    assert call(*QUICK, *pair).exit_code == 0
    made, plain = (np.asarray(Image.open(n)).astype(int) for n in ("out-2.png", "alone.png"))
    assert np.abs(made - plain).max() <= 1


def test_arrays_are_the_librarys_and_json_has_means(
    call: Callable[..., Result], pipe: ipa.Pipeline
) -> None:
    prompts = ("-i", "style.png", "-i", "chair.png", "--mask", "1=left.png")
    done = call(*QUICK, *prompts, "--influence", "seen.npz", "--json")
    found = json.loads(done.stdout)
    assert [Path(file).name for file in found["files"]] == ["out.png", "seen.npz"]
    style, chair, left = (Image.open(f"{name}.png") for name in ("style", "chair", "left"))
    expected = pipe(
        image_prompts=[ImagePrompt(style, mask=left), ImagePrompt(chair)],
        **{"num_inference_steps": 3, "guidance_scale": 3.0, "influence": True},
    )
    kept = np.load("seen.npz")
    assert set(kept) == set(expected.influence.arrays())
    for name, array in expected.influence.arrays().items():
        assert np.array_equal(kept[name], array)
    (means,) = found["influence"]
    assert means == expected.info["influence"][0]
    first, second = (own["share"] for own in means["image_prompts"])
    assert 0.05 < first < second  # half of the picture, all of it


def test_a_sheet_shows_where_each_picture_acts(pipe: ipa.Pipeline, references: list) -> None:
    """Left and right halves, told by the brightness of the heat; the joint map has no such edge."""
    left = np.tile(np.arange(64) < 32, (64, 1))
    prompt = ImagePrompt(references[:2], mask=[left, ~left])
    made = pipe(image_prompts=prompt, num_inference_steps=3, influence=True)
    sheet = influence_sheet(made.influence, made.images[0], [prompt])
    cell, gap, line = 160, 12, 20
    assert sheet.width == gap + 4 * (cell + gap)  # the picture; the prompt and its two pictures
    grey = np.asarray(sheet.convert("L")).astype(float)

    def light(column: int, half: int) -> float:
        """Of the averages over all layers and steps, away from the edges."""
        y, x = gap + cell + line + gap, gap + column * (cell + gap) + half * cell // 2
        return float(grey[y + 10 : y + cell - 10, x + 15 : x + cell // 2 - 15].mean())

    assert light(2, 0) > light(2, 1) + 50 and light(3, 1) > light(3, 0) + 50
    assert abs(light(1, 0) - light(1, 1)) < 25


def test_a_sheet_of_embeds_and_one_step(pipe: ipa.Pipeline, references: list) -> None:
    """No reference to show, no thirds of the steps, a wide picture."""
    prompts = [
        ImagePrompt(pipe.encode_image_prompt(references[:2])),
        ImagePrompt(references[:3], combine="average", scale=0.0),
    ]
    call: dict[str, Any] = {"num_inference_steps": 1, "width": 96, "influence": True}
    made = pipe(image_prompts=prompts, **call)
    sheet = influence_sheet(made.influence, made.images[0], prompts)
    assert sheet.width == 12 + 5 * (160 + 12)
    assert sheet.height == 12 + (1 + 4) * (107 + 20 + 12) + 60


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "suffix": (("-i", "style.png", "--influence", "seen.jpg"), ".npz"),
    "missing folder": (("-i", "style.png", "--influence", "none/seen.npz"), "does not exist"),
    "no image prompt": (("--influence", "seen.png"), "--image-prompt"),
    "one file": (("-i", "style.png", "--influence", "./out.png"), "name one file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_come_before_any_work(
    name: str, call: Callable[..., Result], tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    words, part = MISTAKES[name]
    done = call(*QUICK, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert part in done.stderr and done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
