"""`ipa-mlx plan`: generate's options, and no weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ipa.app.cli import app


def planned(*words: str) -> Any:
    return CliRunner().invoke(app, ["plan", *words])


@pytest.fixture
def style(tmp_path: Path) -> str:
    from ipa import demo

    path = tmp_path / "style.png"
    path.write_bytes(demo.references()[0].read_bytes())
    return str(path)


def test_the_stages_and_what_takes_less(style: str) -> None:
    found = planned("-p", "a star", "-i", style, "--width", "128", "--height", "128")
    assert found.exit_code == 0, found.output
    for word in ("text", "images", "condition", "denoise", "decode", "Held all the time: unet"):
        assert word in found.output
    assert "Peak: " in found.output and "in the stage decode" in found.output
    assert "Less with:" in found.output and "--vae-memory strips" in found.output


def test_a_budget_that_is_met_or_not() -> None:
    assert "It fits the budget of 4.00 GiB" in planned("--memory-budget", "4").output
    found = planned("--width", "512", "--height", "512", "--memory-budget", "0.0625")
    assert found.exit_code == 0
    assert "It does not fit the budget of 64 MiB" in found.output
    assert "half the width and height" in found.output


def test_for_machines(style: str) -> None:
    found = planned("a star", "-i", style, "--json", "--num-images", "2", "--quantize", "8")
    told = json.loads(found.output)
    assert [stage["name"] for stage in told["stages"]] == [
        *("text", "images", "condition", "denoise", "decode"),
    ]
    assert told["peak"] == max(stage["peak"] for stage in told["stages"])
    assert not any("quantize" in offer["name"] for offer in told["offers"])


def test_it_refuses_what_generate_refuses() -> None:
    found = planned("--width", "129")
    assert found.exit_code != 0
    assert "multiples of" in found.output


def test_it_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert planned("a star", "-o", "made.png", "--memory-budget", "auto").exit_code == 0
    assert not [*tmp_path.iterdir()]
