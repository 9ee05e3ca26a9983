"""Sweeps on both backends: every cell is an ordinary call, from the noise that its seed draws."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import ImagePrompt, Pipeline, RequestError
from ipa.sheets.sweep import AXES, Axis, Sweep, make_cells
from ipa.sheets.sweep_report import describe_sweep, suggest_scales, suggestion_notes, sweep_blocks

Open = Callable[..., Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 1,
    "guidance_scale": 3.0,
    "width": 32,
    "height": 24,
    "prompt": "a star",
}
GREY = Image.new("RGB", (8, 8), "grey")


@pytest.fixture(scope="module")
def pipe(tiny: Path, backend: str, open_pipeline: Open) -> Pipeline:
    return open_pipeline(tiny, backend, "linear", "plus")


def test_a_cell_is_a_call(pipe: Pipeline, references: list) -> None:
    """Bit for bit, in the order of the axes, with what is not varied as it was said."""
    one, two, other = references[:3]
    shared = ImagePrompt(other, adapter="plus", scale=0.4)
    sweep = Sweep(
        axes=[Axis("seed", [4, 9]), Axis("reference", [one, two]), Axis("scale", [0.5, 1])],
        image_prompt=ImagePrompt(GREY, adapter="linear", end=0.9),
        others=[shared],
        arguments=CALL,
    )
    made = list(make_cells(pipe, sweep))
    assert len(made) == len(sweep.cells) == sweep.count == 8
    for entry, (seed, image, scale) in zip(
        made,
        [(s, i, w) for s in (4, 9) for i in (one, two) for w in (0.5, 1.0)],
        strict=True,
    ):
        prompts = [ImagePrompt(image, adapter="linear", end=0.9, scale=scale), shared]
        alone = pipe(image_prompts=prompts, seed=seed, **CALL)
        assert np.array_equal(entry.image, alone.images[0])
        assert entry.info["request"] == alone.info["request"]
    assert sweep.labels(made[3].cell) == {"seed": "4", "reference": "2", "scale": "1"}


def test_the_same_request_is_made_once(pipe: Pipeline, references: list) -> None:
    """At a scale of 0 no picture, window, curve or layer is left, but what reads them is."""
    sweep = Sweep(
        axes=[
            Axis("adapter", ["linear", "plus"]),
            Axis("reference", references[:2]),
            Axis("layers", ["linear", "ease in"]),
            Axis("scale", [0, 0.5]),
        ],
        arguments=CALL,
    )
    calls: list[ipa.Progress] = []
    made = list(make_cells(pipe, sweep, on_progress=calls.append))
    assert (len(made), sweep.count) == (16, 2 * 4 + 2)
    assert len([event for event in calls if event.stage == "done"]) == 10
    base = pipe(**CALL).images[0]
    for entry in made:
        is_base = np.array_equal(entry.image, base)
        assert is_base == (sweep.value(entry.cell, "scale") == 0)


def test_nothing_is_made_before_all_is_checked(pipe: Pipeline, references: list) -> None:
    wrong = np.zeros((4, 4, 7), np.uint8)
    prompt = ImagePrompt(references[0], adapter="linear")
    sweep = Sweep(
        axes=[Axis("reference", [references[0], wrong], ["good", "bad"]), Axis("seed", [1, 2])],
        image_prompt=prompt,
        arguments=CALL,
    )
    with pytest.raises(RequestError, match=r"cell of reference bad, seed 1: .*\(4, 4, 7\)"):
        make_cells(pipe, sweep)


def test_what_was_made_stays_when_cancelled(pipe: Pipeline) -> None:
    cancel, made = threading.Event(), []
    sweep = Sweep(axes=[Axis("seed", [1, 2, 3])], arguments=CALL)
    with pytest.raises(ipa.Cancelled):
        for entry in make_cells(pipe, sweep, cancel=cancel):
            made.append(entry)
            if len(made) == 2:
                cancel.set()
    assert len(made) == 2 and made[0].likeness is None
    (block,) = sweep_blocks(sweep, made)
    assert [cell.picture is None for cell in block.rows[0].cells] == [False, False, True]
    assert suggestion_notes(sweep, made) == [] and suggest_scales(sweep, made) == {}


def test_embeds_are_a_reference_without_a_likeness(pipe: Pipeline, references: list) -> None:
    embeds = pipe.encode_image_prompt(references[0], adapter="linear")
    prompt = ImagePrompt(embeds, adapter="linear")
    sweep = Sweep(axes=[Axis("scale", [0, 1])], image_prompt=prompt, arguments=CALL)
    made = list(make_cells(pipe, sweep))
    assert [entry.likeness for entry in made] == [None, None]
    (block,) = sweep_blocks(sweep, made)
    assert block.columns == ["scale 0", "scale 1"]
    told = describe_sweep(sweep, made)["cells"]
    assert [cell["scale"] for cell in told] == [0, 1]


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "axis": (lambda: Axis("scales", [1]), "did you mean 'scale'"),
    "no values": (lambda: Axis("scale", []), "needs a value"),
    "twice": (lambda: Axis("scale", [0.5, 1, 0.5]), "a value twice; found: 0.5"),
    "picture twice": (lambda: Axis("reference", [GREY, GREY]), "a value twice"),
    "labels": (lambda: Axis("scale", [0, 1], ["none"]), "1 labels, 2 values"),
    "no axes": (lambda: Sweep(axes=[]), "one axis or more"),
    "axis twice": (lambda: Sweep(axes=[Axis("seed", [1]), Axis("seed", [2])]), "'seed' twice"),
    "no picture": (lambda: Sweep(axes=[Axis("scale", [0, 1])]), "'scale' is about a picture"),
    "several pictures": (
        lambda: Sweep(axes=[Axis("seed", [1])], arguments={"num_images": 2}),
        "num_images= has no place",
    ),
    "said twice": (
        lambda: Sweep(axes=[Axis("seed", [1])], arguments={"seed": 2}),
        "seed= has no place",
    ),
    "value": (
        lambda: Sweep(axes=[Axis("scale", ["x"])], image_prompt=ImagePrompt(GREY)).cells,
        "scale must be a finite number",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    make, message = MISTAKES[name]
    with pytest.raises(RequestError, match=message):
        make()


def test_axes_are_words_of_the_interface() -> None:
    from ipa.request.request import RequestArguments

    words = {*RequestArguments.__annotations__, *ImagePrompt.__dataclass_fields__, "prompt"}
    assert {*AXES} - {"reference"} <= words
