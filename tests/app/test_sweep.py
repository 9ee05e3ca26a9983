"""`ipa-mlx sweep`, through the command line that a person types, and the sheet that it makes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner, Result

import ipa
from ipa import Cancelled, Control, ImagePrompt, RequestError, demo
from ipa.app.cli import app
from ipa.app.commands.sweep import run_sweep
from ipa.app.options.ranges import numbers
from ipa.pipeline.description import METADATA_KEY
from ipa.sheets.likeness import suggest_scale
from ipa.sheets.sheet import SheetBlock, SheetCell, SheetRow, draw_sheet
from ipa.sheets.sweep import Axis, Made, Sweep, make_cells
from ipa.sheets.sweep_report import suggestion_notes, sweep_blocks
from oracle import loras
from oracle.judge import clip_embeddings
from oracle.pipelines import diffusers_pipeline
from oracle.workshop import copied

QUICK = ("--steps", "1", "--guidance", "3")
CALL = {"num_inference_steps": 1, "guidance_scale": 3.0}
PAPER = (250, 250, 248)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx sweep …` in an empty folder that holds two pictures."""
    monkeypatch.chdir(tmp_path)
    for name, number in (("style", 3), ("chair", 0)):
        Image.open(demo.references()[number]).save(f"{name}.png")
    return lambda *words: CliRunner().invoke(app, ["sweep", *map(str, words)])


@pytest.fixture(scope="module")
def pipe() -> ipa.Pipeline:
    pipe = ipa.load("demo")
    pipe.load_ip_adapter(demo.adapter("base"), name="base")
    return pipe


def pixels(number: int) -> Image.Image:
    return Image.open(demo.references()[number]).convert("RGB")


def test_a_sheet_with_every_request_inside(
    call: Callable[..., Result], tmp_path: Path, pipe: ipa.Pipeline
) -> None:
    """Cells in the order of the axes, each what the library makes, with its likeness by CLIP."""
    words = ("-i", "style.png", "-i", "chair.png", "-p", "a star", "--scales", "0,0.5,1")
    done = call(*words, "--seeds", 7, *QUICK, "-o", "sheet.png", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told.pop("sheet") == str(tmp_path / "sheet.png")
    assert told == json.loads(Image.open("sheet.png").text[METADATA_KEY])
    assert "5 pictures for 6 cells" in done.stderr
    assert (told["model"], told["pictures"], len(told["cells"])) == ("demo", 5, 6)
    order = [(cell["reference"], cell["scale"]) for cell in told["cells"]]
    assert order == [(name, scale) for name in ("style", "chair") for scale in (0, 0.5, 1)]
    image = pixels(0)
    alone = pipe("a star", image_prompts=ImagePrompt(image, scale=0.5, end=1), seed=7, **CALL)
    found = told["cells"][4]
    assert found["request"] == json.loads(json.dumps(alone.info["request"]))
    own, other = clip_embeddings([alone.images[0], image])
    # Measured 3.4e-5: the rounding to four digits.
    assert found["likeness"] == pytest.approx(float(own @ other), abs=6e-5)
    sheet = Image.open("sheet.png")
    assert sheet.width == 8 + 4 * 136
    shown = np.asarray(alone.images[0].resize((128, 128), Image.Resampling.LANCZOS))
    drawn = np.lib.stride_tricks.sliding_window_view(np.asarray(sheet), (128, 128, 3))
    places = [(y, x) for y in range(drawn.shape[0]) for x in (280,)]
    assert any(np.array_equal(drawn[y, x, 0], shown) for y, x in places)


def test_many_axes(call: Callable[..., Result]) -> None:
    """Adapters by the names that they are given; one of a word is part of every request."""
    adapters = [f"{kind}={demo.adapter(kind)}" for kind in ("base", "plus")]
    done = call(
        *("-i", "style.png", "-a", adapters[0], "-a", adapters[1], "--scales", "0.8"),
        *("--layers", "ease in", "--layers", "0:1,3:0.5", "--curve", "0:1,1:0", "--ends", "0.5"),
        *("--steps", 1, "--guidance", "2,3", "--fit", "pad", "--negative-image", "noise", "--json"),
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert list(told["axes"]) == ["adapter", "guidance_scale", "layers"]
    assert told["pictures"] == 8 and told["suggested_scales"] == []
    for cell in told["cells"]:
        kept = cell["request"]["image_prompts"][0]
        assert (kept["adapter"], kept["layers"]) == (cell["adapter"], cell["layers"])
        assert cell["request"]["guidance_scale"] == cell["guidance_scale"]
        assert (kept["scale"], kept["end"], kept["fit"]) == (0.8, 0.5, "pad")
        assert kept["negative"] == "noise"
        assert kept["curve"] == [[0, 1], [1, 0]]


RANGES: dict[str, list[float]] = {
    "0..1": [0, 0.25, 0.5, 0.75, 1],
    "0..0.3..0.1": [0, 0.1, 0.2, 0.3],
    "1..0..-0.5": [1, 0.5, 0],
    "0..0.5..0.2,1": [0, 0.2, 0.4, 1],
    "-1,2": [-1, 2],
}


@pytest.mark.parametrize("text", RANGES)
def test_ranges(text: str) -> None:
    assert numbers("--scales", text, float) == RANGES[text]


def test_ranges_of_whole_numbers() -> None:
    assert numbers("--seeds", "1-3,7", int) == [1, 2, 3, 7]
    assert numbers("--seeds", "4..8..2", int) == [4, 6, 8]
    for wrong in ("3-1", "1-", "0..1..0", "1..2..3..4", "0..x", "0-10000"):
        with pytest.raises(RequestError, match="--seeds"):
            numbers("--seeds", wrong, int)
    for wrong in ("0..inf", "nan..1", "0..1..0", "0..1..-1"):
        with pytest.raises(RequestError, match="write --scales"):
            numbers("--scales", wrong, float)


def test_what_generate_has(call: Callable[..., Result], pipe: ipa.Pipeline) -> None:
    """Weights and windows behind files, masks, controls, a start: each as in a call of its own."""
    Image.new("L", (64, 64), 120).save("half.png")
    words = ("-i", "style.png:0.5@0-0.5", "--mask", "half.png", "--control", "chair.png:0.6")
    words += ("--image", "chair.png", "--strength", "1", "--profile", "diffusers", "--seed", "4-5")
    done = call(*words, *QUICK[2:], "--steps", 2, "--json")
    assert done.exit_code == 0, done.output
    cells = json.loads(done.stdout)["cells"]
    own = copied(pipe)
    own.load_controlnet(demo.controlnet(), name="edges")
    prompt = ImagePrompt(pixels(3), scale=0.5, end=0.5, mask=Image.open("half.png"))
    for cell, seed in zip(cells, (4, 5), strict=True):
        alone = own(
            image_prompts=prompt,
            controls=[Control(pixels(0), scale=0.6)],
            image=pixels(0),
            strength=1.0,
            profile="diffusers",
            seed=seed,
            **CALL | {"num_inference_steps": 2},
        )
        assert cell["request"] == json.loads(json.dumps(alone.info["request"]))


def test_loras_of_a_sweep(call: Callable[..., Result], tiny: Path) -> None:
    pairs = loras.random_pairs(loras.layers(diffusers_pipeline(tiny)), seed=1)
    loras.write(Path("a.safetensors"), loras.kohya(loras.weak(pairs), "sd"))
    words = ("-m", tiny, "-a", f"one={tiny / 'plus.safetensors'}", "-i", "one=style.png")
    done = call(*words, "--lora", "a.safetensors:0.5", "--scales", "0,1", *QUICK, "--json")
    assert done.exit_code == 0, done.output
    for cell in json.loads(done.stdout)["cells"]:
        assert cell["request"]["loras"]["a"]["scale"] == 0.5


MISTAKES: dict[str, tuple[tuple[object, ...], int, str]] = {
    "no picture": ((), 2, "add one with --image-prompt"),
    "missing picture": (("-i", "none.png"), 2, "none.png"),
    "nothing to sweep": (("-i", "style.png", "--scales", "1"), 2, "nothing to sweep"),
    "scales": (("-i", "style.png", "--scales", "0,much"), 2, "write --scales 0,0.5,1"),
    "seeds": (("-i", "style.png", "--seeds", "1.5"), 2, "write --seeds 0,1,2"),
    "negative seed": (("-i", "style.png", "--seeds", "-1,2"), 2, "seed must be an integer"),
    "scale twice": (("-i", "style.png", "--scales", "1,0,1"), 2, "a value twice"),
    "infinite": (("-i", "style.png", "--scales", "0,inf"), 2, "finite"),
    "end": (("-i", "style.png", "--ends", "1,2"), 2, "0 ≤ start ≤ end ≤ 1"),
    "layers": (("-i", "style.png", "--layers", "stile"), 2, "did you mean 'style'"),
    "layers of other bases": (
        ("-i", "style.png", "--layers", "composition"),
        2,
        "SD1.5 and SDXL only",
    ),
    "scale said twice": (("-i", "style.png:0.5", "--scales", "0,1"), 2, "said twice"),
    "end said twice": (("-i", "style.png@0-0.5", "--ends", "0.5,1"), 2, "said twice"),
    "unlike": (("-i", "style.png:0.5", "-i", "chair.png", "--seeds", "1,2"), 2, "one weight"),
    "range": (("-i", "style.png", "--scales", "0..x"), 2, "or --scales 0..1"),
    "strength": (("-i", "style.png", "--strength", "0.5"), 2, "--strength without --image"),
    "curve": (("-i", "style.png", "--curve", "up"), 2, "no curve of this name"),
    "fit": (("-i", "style.png", "--fit", "pads"), 2, "did you mean 'pad'"),
    "size": (("-i", "style.png", "--width", 62), 2, "multiples of 4"),
    "suffix": (("-i", "style.png", "-o", "x.jpg"), 2, ".png"),
    "sampler": (("-i", "style.png", "--scheduler", "eulr"), 2, "did you mean 'euler'"),
    "missing model": (("-i", "style.png", "-m", "none/such/model"), 3, "no such model folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_before_weights_are_read(
    name: str, call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipa.app.options.loading.load", None)
    before = sorted(tmp_path.iterdir())
    words, code, part = MISTAKES[name]
    done = call(*QUICK, *words)
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("error: ") and part in done.stderr and done.stdout == ""
    assert sorted(tmp_path.iterdir()) == before


def test_cancelled_sweeps_leave_what_is_finished_beside(pipe: ipa.Pipeline, tmp_path: Path) -> None:
    """The name that was asked for keeps what it held before."""

    class AfterThree(threading.Event):
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 3 * 3  # before the encoder, the step, the decoder

    output = tmp_path / "sheet.png"
    output.write_bytes(b"before")
    scales = Axis("scale", [0.2, 0.4, 0.6, 0.8])
    sweep = Sweep(axes=[scales], image_prompt=ImagePrompt(pixels(0)), arguments=CALL)
    with pytest.raises(Cancelled, match=r"3 of 4 cells, in .*sheet-unfinished\.png"):
        run_sweep(pipe, sweep, output, "", AfterThree())
    assert output.read_bytes() == b"before"
    kept = json.loads(Image.open(tmp_path / "sheet-unfinished.png").text[METADATA_KEY])
    assert [cell["scale"] for cell in kept["cells"]] == [0.2, 0.4, 0.6]


def test_references_stand_where_they_are_read() -> None:
    """In front of rows where they change, or above the columns that they make."""
    one, two = pixels(0), pixels(1)
    references, scales = Axis("reference", [one, two], ["a", "b"]), Axis("scale", [0.5, 1])

    def blocks(*axes: Axis) -> list[SheetBlock]:
        return sweep_blocks(Sweep(axes=axes, arguments=CALL), [])

    rows = blocks(references, scales)[0]
    assert rows.columns == ["reference", "scale 0.5", "scale 1"]
    assert [(row.title, row.cells[0].label) for row in rows.rows] == [("", "a"), ("", "b")]
    above = blocks(scales, references)[0]
    assert [row.title for row in above.rows] == ["reference", "scale 0.5", "scale 1"]
    assert np.array_equal(above.rows[0].cells[1].picture, two)
    groups = blocks(references, Axis("seed", [1, 2]), scales)
    assert [block.heading for block in groups] == ["a", "b"]
    assert [row.cells[0] is None for row in groups[1].rows] == [False, True]
    pair = Sweep(axes=[scales], image_prompt=ImagePrompt([one, two]), arguments=CALL)
    assert sweep_blocks(pair, [])[0].rows[0].cells[0].picture.size == (128, 64)


def test_words_of_a_sheet_have_their_letters() -> None:
    """A font without a letter draws a box, the same for each of them."""
    axes = [
        Axis("prompt", ["a star", ""]),
        Axis("negative_prompt", ["a ring"]),
        Axis("layers", [None, "0:1"]),
        Axis("scale", [0, 0.5, 1]),
    ]
    sweep = Sweep(axes=axes, image_prompt=ImagePrompt(pixels(0)), arguments=CALL)
    image, info = Image.new("RGB", (64, 64)), {"request": {}, "warnings": []}
    made = [Made(cell=cell, image=image, info=info, likeness=0.5) for cell in sweep.cells]
    blocks, notes = sweep_blocks(sweep, made), suggestion_notes(sweep, made)
    texts = ["…", *notes, *(b.heading for b in blocks), *blocks[0].columns]
    texts += [row.title for row in blocks[0].rows]
    assert blocks[1].heading == "no words, not “a ring”" and len(notes) == 3
    assert [row.title for row in blocks[0].rows] == ["all layers", "layers 0:1"]
    font = ImageFont.load_default(13)
    box = bytes(font.getmask("\uffff"))
    for letter in {*"".join(texts)} - {" "}:
        assert bytes(font.getmask(letter)) != box, letter


LONG = "a-very-long-name-of-a-file-that-somebody-chose-with-care and more words behind it"


def test_nothing_is_cut_or_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text lies inside the sheet and touches no other, whatever its length."""
    boxes: list[tuple[float, ...]] = []
    stock = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, at: Any, words: str, **options: Any) -> None:
        if words:
            boxes.append(self.textbbox(at, words, font=options["font"], anchor=options["anchor"]))
        stock(self, at, words, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    cells = [SheetCell(Image.new("RGB", (64, 48)), LONG, is_marked) for is_marked in (True, False)]
    rows = [SheetRow(LONG, [*cells, None]), SheetRow("x", [SheetCell(None)])]
    blocks = [SheetBlock([LONG, "scale 1", ""], rows, LONG), SheetBlock(["other"], rows, "second")]
    sheet = draw_sheet(blocks, title=LONG * 3, notes=[LONG * 9, "short"], cell=(128, 96))
    assert len(boxes) > 20
    for box in boxes:
        assert 0 <= box[0] < box[2] <= sheet.width and 0 <= box[1] < box[3] <= sheet.height
    for number, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:number]:
            apart = left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= bottom
            assert apart, (number, other)


def test_pictures_keep_their_aspect() -> None:
    wide = Image.new("RGB", (200, 50), "red")
    sheet = draw_sheet([SheetBlock(["x"], [SheetRow("", [SheetCell(wide)])])], cell=(100, 100))
    red = np.argwhere((np.asarray(sheet) == (255, 0, 0)).all(axis=-1))
    assert [*(red.max(axis=0) - red.min(axis=0) + 1)] == [25, 100]
    assert sheet.getpixel((0, 0)) == PAPER


def curve(*means: float) -> list[tuple[float, float]]:
    """Likeness at 0, 0.25, 0.5, 0.75 and 1, each of two pictures about a mean."""
    return [(n / 4, mean + off) for n, mean in enumerate(means) for off in (-0.1, 0.1)]


SUGGESTED: dict[str, tuple[Sequence[tuple[float, float]], float | None, str]] = {
    "where it stops rising": (curve(0.1, 0.5, 0.88, 0.9, 0.9), 0.5, "likeness 0.10 at 0, 0.88 at"),
    "just below the share": (curve(0.1, 0.5, 0.85, 0.9, 0.9), 0.75, "95% of the gain"),
    "not sorted": (curve(0.1, 0.5, 0.88, 0.9, 0.9)[::-1], 0.5, "at most 0.90"),
    "negative ones do not count": (
        [(-1.0, 0.95)] * 2 + curve(0.1, 0.5, 0.88, 0.9, 0.9),
        0.5,
        "at most 0.90",
    ),
    "still rising": (curve(0.1, 0.2, 0.3, 0.4, 0.5), None, "still rises at the largest"),
    "no gain": (curve(0.5, 0.5, 0.52, 0.51, 0.5), None, "none brings 0.05"),
    "a loss": (curve(0.5, 0.4, 0.3, 0.2, 0.1), None, "none brings 0.05"),
    "without 0": (curve(0.1, 0.5, 0.9, 0.9, 0.9)[2:], None, "needs 0 and two larger"),
    "two scales": (curve(0.1, 0.9), None, "needs 0 and two larger"),
}


@pytest.mark.parametrize("name", SUGGESTED)
def test_a_scale_is_suggested_by_its_rule(name: str) -> None:
    measured, scale, reason = SUGGESTED[name]
    found = suggest_scale(measured)
    assert found.scale == scale and reason in found.reason
    assert found.pictures == 2


def test_suggestions_are_each_setting_s_own(pipe: ipa.Pipeline) -> None:
    """Means over references and seeds; layers have scales of their own."""
    images = [pixels(0), pixels(3)]
    axes = [
        Axis("reference", images),
        Axis("layers", ["linear", "0:0.0"]),
        Axis("scale", [0, 0.5, 1]),
    ]
    sweep = Sweep(axes=axes, arguments=CALL)
    made = list(make_cells(pipe, sweep))
    notes = suggestion_notes(sweep, made)
    assert len(notes) == 3 and "cosine" in notes[0]
    assert notes[1].startswith("Suggested scale (linear): ") and "means of 2 pictures" in notes[1]
    assert notes[2].startswith("Suggested scale (layers 0:0.0): none, for none brings 0.05")
