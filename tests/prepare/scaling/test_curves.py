"""Weights over the steps: curves against numpy's interpolation and Python's own mathematics."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ipa import ImagePrompt
from ipa.errors import RequestError
from ipa.model.sites import SITES
from ipa.prepare.scaling.curves import NAMES, curve_factors, is_open
from ipa.prepare.scaling.lambdas import lambda_table

GREY = Image.new("L", (1, 1))
FACTORS = st.floats(-3.0, 3.0, allow_nan=False)
PLACES = st.lists(st.floats(0.0, 1.0, allow_nan=False), min_size=1, max_size=6, unique=True)


@given(places=PLACES, data=st.data(), steps=st.integers(1, 60))
def test_points_are_joined_by_straight_lines(
    places: list[float], data: st.DataObject, steps: int
) -> None:
    places = sorted(places)
    factors = data.draw(st.lists(FACTORS, min_size=len(places), max_size=len(places)))
    points = list(zip(places, factors, strict=True))
    expected = np.interp([i / steps for i in range(steps)], places, factors)
    # Largest difference over 20,000 random curves: 8.9e-16, on factors up to 3.
    assert np.abs(curve_factors(points, steps) - expected).max() < 2e-15


CLOSED: dict[str, Callable[[float], float]] = {
    "constant": lambda x: 1.0,
    "linear": lambda x: x,
    "ease_in": lambda x: 1 - math.cos(math.pi * x / 2),
    "ease_out": lambda x: math.sin(math.pi * x / 2),
    "ease_in_out": lambda x: math.sin(math.pi * x / 2) ** 2,
    "fade_in": lambda x: 2 * x if x < 0.5 else 1.0,
    "fade_out": lambda x: 1.0 if x < 0.5 else 2 - 2 * x,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_named_curves(name: str, steps: int) -> None:
    expected = [CLOSED[name](i / steps) for i in range(steps)]
    assert np.abs(curve_factors(name, steps) - expected).max() < 5e-16  # measured 2.2e-16
    assert np.array_equal(
        curve_factors(name.replace("_", " ").title(), steps), curve_factors(name, steps)
    )


def test_a_jump_holds_its_later_point() -> None:
    points = [(0.0, 1.0), (0.5, 1.0), (0.5, 0.25), (0.75, 0.25), (0.75, 2.0)]
    assert curve_factors(points, 8).tolist() == [1.0] * 4 + [0.25] * 2 + [2.0] * 2
    assert curve_factors([(0.0, 1.0), (0.0, 3.0)], 2).tolist() == [3.0, 3.0]
    assert curve_factors([(1.0, 5.0)], 3).tolist() == [5.0] * 3


@given(value=st.floats(-10, 10, allow_nan=False), steps=st.integers(1, 50))
def test_a_constant_curve_is_the_number_to_the_bit(value: float, steps: int) -> None:
    sites = SITES["SD1.5"]
    plain = lambda_table(ImagePrompt(GREY, scale=value), 1.0, sites, steps)
    for curve in ("constant", [(0.3, 1.0)], [(0.1, 1.0), (0.7, 1.0)]):
        table = lambda_table(ImagePrompt(GREY, scale=value, curve=curve), 1.0, sites, steps)
        assert np.array_equal(table, plain) and (plain == value).all()


@given(
    steps=st.integers(1, 50), start=st.integers(0, 100), width=st.integers(0, 100), scale=FACTORS
)
def test_the_table_is_a_product(steps: int, start: int, width: int, scale: float) -> None:
    """Windows in exact fractions, as tencent's pipeline states them, unless i/n meets an edge."""
    begin, end = Fraction(start, 100), Fraction(min(start + width, 100), 100)
    prompt = ImagePrompt(
        GREY, scale=scale, layers="ease in", curve="fade_out", start=float(begin), end=float(end)
    )
    table = lambda_table(prompt, 1.0, SITES["SDXL"], steps)
    assert table.shape == (70, steps) and table.dtype == np.float64
    for i in range(steps):
        here, after = Fraction(i, steps), Fraction(i + 1, steps)
        if here == begin or after == end:
            continue  # floats decide, as they do there
        on = not (here < begin or after > end)
        # Site number 1 is the first transformer (factor 1), 119 the last (t = 10 of 11).
        assert table[0, i] == pytest.approx(on * scale * CLOSED["fade_out"](i / steps), abs=1e-14)
        assert table[59, i] == pytest.approx(table[0, i] * (1 - 0.95 * 10 / 11), abs=1e-14)


def test_windows_look_at_the_begin_and_the_end_of_a_step() -> None:
    assert [is_open(0.25, 0.75, i, 4) for i in range(4)] == [False, True, True, False]
    assert [is_open(0.3, 0.75, i, 4) for i in range(4)] == [False, False, True, False]


WRONG: dict[str, tuple[Any, str]] = {
    "name": ("fade", "did you mean 'fade_in'|did you mean 'fade_out'"),
    "empty": ([], "a name or a list of points"),
    "number": (0.5, "a name or a list of points"),
    "one number": ([(0.0,)], r"curve\[0\] must be two numbers"),
    "text": ([(0.0, "x")], "finite number"),
    "NaN": ([(0.0, 1.0), (0.5, float("nan"))], r"curve\[1\] must be a finite"),
    "outside": ([(0.0, 1.0), (1.5, 0.0)], r"in \[0, 1\].*found: 0, 1.5"),
    "backwards": ([(0.5, 1.0), (0.2, 0.0)], "never go back"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_curve(name: str) -> None:
    curve, words = WRONG[name]
    with pytest.raises(RequestError, match=words):
        lambda_table(ImagePrompt(GREY, curve=curve), 1.0, SITES["SD1.5"], 4)


def test_weights_beyond_float64() -> None:
    prompt = ImagePrompt(GREY, scale=1e200, layers="0:1e200")
    with pytest.raises(RequestError, match="beyond float64"):
        lambda_table(prompt, 1.0, SITES["SD1.5"], 4)
