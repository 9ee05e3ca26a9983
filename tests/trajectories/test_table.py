"""The parity table has the rows that it is for, and says so when one is out of bounds."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import table
from benchmarks.table import Distance, Row
from ipa.prepare.samplers.schedules import NAMES
from oracle.runs.suite import Suite
from oracle.schedulers import OWN_NAMES

KINDS = (
    *("ControlNet: one", "ControlNet: two", "ControlNet.*guess mode", "LoRA: two.*text encoder"),
    *("img2img, strength", "inpainting, strength", "nine channels, strength", "clip_skip", "long"),
    *("inpainting of SDXL", "img2img of SDXL", "ControlNet: two, SDXL", "LoRA: two of SDXL"),
    *("clip_skip: .*SDXL", "texts.*: SDXL", "Masks", "Faces", "Image prompts", "SDXL: "),
)


def row(**worst: float) -> Row:
    return Row("a", "b", "c", 4, {name: Distance(x, x / 2) for name, x in worst.items()})


def test_every_kind_has_its_rows() -> None:
    assert all(table.chosen(kind) for kind in KINDS)
    names = [f"{suite.title}: {name}" for suite, name in table.chosen("")]
    assert len(names) == len(set(names)) > 350
    for name in (name for name in NAMES if name not in OWN_NAMES):
        for steps in (4, 20, 50):
            ((suite, case),) = table.chosen(f"^Samplers: {re.escape(name)}, {steps} steps$")
            arguments = suite.all[case].arguments
            assert arguments == {"scheduler": name, "num_inference_steps": steps}


@pytest.mark.parametrize(
    ("worst", "is_sound"),
    [
        ({"mlx": 9e-5, "torch": 9e-6}, True),
        ({"mlx": 2e-4, "torch": 9e-6}, False),
        ({"mlx": 9e-5, "torch": 2e-5}, False),
        ({"mlx": float("nan")}, False),
    ],
)
def test_verdict(worst: dict[str, float], is_sound: bool) -> None:
    found = row(**worst)
    assert found.is_sound is is_sound
    assert ("FAIL" in table.markdown([found], list(worst))) is not is_sound
    assert table.record([found])["rows"][0]["ok"] is is_sound


def test_final_latents_are_held_to_their_suites_limits() -> None:
    found = row(mlx=2e-6)  # of which the final latents are off by half
    assert replace(found, limits={"mlx": 2e-6}).is_sound
    assert not replace(found, limits={"mlx": 9e-7}).is_sound


def test_the_worst_evaluation_counts() -> None:
    """Also where all is well in the end; where diffusers tells less, the final latents are left."""
    theirs = [np.full((1, 4), value) for value in (1.0, 2.0, 3.0)]
    ours = [theirs[0], 1.5 * theirs[1], theirs[2]]
    assert table.distance(ours, theirs, ours[2], theirs[2]) == Distance(0.5, 0.0)
    assert table.distance(ours, theirs[:2], 2 * ours[2], theirs[2]) == Distance(1.0, 1.0)
    gone = [theirs[0], np.full((1, 4), np.nan), theirs[2]]
    found = table.distance(gone, theirs, gone[2], theirs[2])
    assert not Row("a", "b", "c", 3, {"mlx": found}).is_sound


def test_a_run_that_raises_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> np.ndarray:
        raise IndexError("out of levels")

    suite = Suite("a", {"b": None}, broken, broken, lambda *_: [])
    (found,) = table.rows([(suite, "b")], None, ["mlx"])
    assert not found.is_sound and found.judge == "raised IndexError"
    assert "out of levels" in capsys.readouterr().err
