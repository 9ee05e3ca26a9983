"""Budgets, and arrays that are held to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipa import ParityError, RequestError, parity
from ipa.parity.budgets import Budget

STAGES = ("text.positive/states", "step.000/latents", "step.001/latents", "image.0/pixels@2")


def test_the_last_pattern_that_matches(tmp_path: Path) -> None:
    file = tmp_path / "budget.toml"
    file.write_text(
        'factor = 4\n[stages]\n"step.*" = 1e-3\n"step.001/*" = { factor = 10 }\n'
        '"image.0/pixels" = { limit = 2e-4 }\n'
    )
    limits = Budget.of(file).limits(STAGES, "float32", dict.fromkeys(STAGES, 1e-6))
    found = {stage: pytest.approx(limits.limit(stage)) for stage in STAGES}
    assert found == dict(zip(STAGES, (4e-6, 1e-3, 1e-5, 2e-4), strict=True))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"stage": {}}, "did you mean stages"),
        ({"factor": 0}, "positive"),
        ({"factor": True}, "positive"),
        ({"stages": {"*": float("nan")}}, "positive"),
        ({"stages": {"*": "1e-3"}}, "positive"),
        ({"stages": {"*": {"limits": 1}}}, "did you mean limit"),
        ({"stages": {"*": {"limit": 1, "factor": 2}}}, "one of limit and factor"),
        ({"stages": 3}, "no table"),
    ],
)
def test_what_a_budget_cannot_be(told: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Budget.of(told)


def test_files_that_are_no_budgets(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        Budget.of(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("factor = ")
    with pytest.raises(RequestError, match="is no TOML"):
        Budget.of(tmp_path / "bad.toml")


def test_a_pattern_without_a_stage_names_the_nearest() -> None:
    budget = Budget.of({"stages": {"step.*/latent": 1e-3}})
    with pytest.raises(RequestError, match=r"no stage is called 'step\.\*/latent'.*latents"):
        budget.limits(STAGES, "float32")


def test_a_factor_needs_a_floor() -> None:
    budget = Budget.of({"stages": {"step.000/*": {"factor": 3}}})
    with pytest.raises(RequestError, match=r"no floor of step\.000/latents"):
        budget.limits(STAGES, "float32", {"step.001/latents": 1e-6})


@pytest.fixture
def pair(draw: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seven arrays; each is 1e-6 off but for the sixth, 0.01 off."""
    a = {f"layer.{n}": draw.standard_normal((3, 4 + n)) for n in range(7)}
    return a, {name: array * (1.01 if name == "layer.5" else 1 + 1e-6) for name, array in a.items()}


def test_arrays_that_part(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    a, b = pair
    with pytest.raises(AssertionError) as caught:
        parity.assert_close(a, b, {"stages": {"*": 1e-4, "layer.6": 1e-7}})
    head, *rows = str(caught.value).splitlines()
    assert head == (
        "b departs from a at layer.5: relative L2 0.01 of 0.0001 allowed; 2 of 7 stages are bad, "
        "all of the kind layer ×2 (worst 100 × limit)."
    )
    assert [row.split()[0] for row in rows[:3]] == ["stage", "layer.5", "layer.6"]
    assert len(rows) == 6
    assert isinstance(caught.value, ParityError)
    assert caught.value.comparison.first_bad.stage == "layer.5"


def test_arrays_that_do_not(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    a, b = pair
    found = parity.assert_close(a, b, 0.02)
    assert [one.bad for one in found.differences] == [False] * 7
    parity.assert_close(a["layer.0"], b["layer.0"])
    with pytest.raises(AssertionError, match="NaN or infinity"):
        parity.assert_close(a["layer.0"], b["layer.0"] * np.nan, 1e9)


def test_limits_follow_the_lower_precision() -> None:
    a = np.linspace(1, 2, 99)
    parity.assert_close(a, a.astype(np.float16))
    with pytest.raises(AssertionError):
        parity.assert_close(a.astype(np.float32), a.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("b", "words"),
    [
        ({"x": np.ones(3)}, "not the same names"),
        (np.ones((1, 3)), r"two shapes; found: \(3,\) and \(1, 3\)"),
        (np.ones(3, complex), "no array of real numbers"),
        (["a", "b"], "no array of real numbers"),
        (np.ones(0), "is empty"),
        ({}, "holds no array"),
    ],
)
def test_arrays_that_cannot_be_compared(b: Any, words: str) -> None:
    with pytest.raises(ParityError, match=words):
        parity.assert_close(np.ones(3), b)
