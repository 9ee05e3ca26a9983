"""Which evaluations are forecast, as Spectrum's authors have it; from what, by numpy's own fit."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.errors import RequestError
from ipa.prepare.forecast import DEGREE, MIX, RIDGE, forecast_warnings, forecasts, row
from ipa.request.request import Request
from oracle.forecast import actual


def computed(guided: str, **arguments: float) -> str:
    """C where the network is computed."""
    request = Request(forecast=True, **arguments)  # type: ignore[arg-type]
    return "".join("." if f else "C" for f in forecasts(request, [c == "g" for c in guided]))


@pytest.mark.parametrize("steps", [1, 5, 6, 25, 50, 400])
@pytest.mark.parametrize("window", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("growth", [0.0, 0.25, 0.75, 3.0])
@pytest.mark.parametrize("warmup", [1, 2, 5, 60])
def test_computed_evaluations_are_the_authors(
    steps: int, window: float, growth: float, warmup: int
) -> None:
    found = computed(
        "g" * steps, forecast_window=window, forecast_growth=growth, forecast_warmup=warmup
    )
    wanted = actual(steps, window, growth, warmup)
    assert found == "".join("C" if one else "." for one in wanted)


def test_computed_evaluations_of_the_defaults() -> None:
    """By hand: windows of 2, 2.75, 3.5, 4.25 and 5, rounded down, after five."""
    assert computed("g" * 20) == "CCCCC.C.C..C...C...."
    assert computed("-" * 20) == "CCCCC.C.C..C...C...."


@pytest.mark.parametrize(
    ("guided", "wanted"),
    [
        ("gggg----", "CC.C.C.C"),  # the conditional half of guided ones serves the others
        ("--gggg", "CCCC.C"),  # until there are two with both halves
        ("----gggg", "CC.CCC.C"),
        ("-gg---gg", "CCC.C.C."),
    ],
)
def test_guided_evaluations_are_forecast_from_guided_ones(guided: str, wanted: str) -> None:
    own = {"forecast_growth": 0.0, "forecast_warmup": 2}
    assert computed(guided, **own) == wanted
    request = Request(forecast=True, **own)  # type: ignore[arg-type]
    steps = [c == "g" for c in guided]
    for number, weights in enumerate(forecasts(request, steps)):
        if weights is not None and steps[number]:
            assert all(steps[past] for past in weights)


def test_no_more_features_are_used_than_are_kept() -> None:
    request = Request(forecast=True, forecast_growth=0)
    for number, weights in enumerate(forecasts(request, [True] * 300)):
        if weights is not None:
            assert len(weights) <= 100
            assert max(weights) == number - 1


@pytest.mark.parametrize("steps", [7, 20, 50])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 14])
def test_a_row_is_numpys_ridge_fit_and_a_line(steps: int, count: int) -> None:
    """Least squares of numpy, on features, with the ridge as more rows."""
    rng = np.random.default_rng((steps, count))
    numbers = sorted(rng.choice(steps - 1, min(count, steps - 1), replace=False).tolist())
    wanted, features = steps - 1, rng.standard_normal((len(numbers), 30))
    places = 2 * np.array(numbers) / steps - 1
    stacked = np.vstack(
        [np.polynomial.chebyshev.chebvander(places, DEGREE), RIDGE**0.5 * np.eye(DEGREE + 1)]
    )
    zeros = np.zeros((DEGREE + 1, 30))
    coefficients = np.linalg.lstsq(stacked, np.vstack([features, zeros]), rcond=None)[0]
    fit = np.polynomial.chebyshev.chebval(2 * wanted / steps - 1, coefficients)
    line = features[-1]
    if len(numbers) > 1:
        both = np.polynomial.polynomial.polyfit(numbers[-2:], features[-2:], 1)
        line = np.polynomial.polynomial.polyval(wanted, both)
    found = row(numbers, wanted, steps) @ features
    assert np.abs(found - (MIX * fit + (1 - MIX) * line)).max() < 1e-9


def test_a_feature_that_stays_is_forecast_as_it_was() -> None:
    """But for the ridge, which draws the fit to zero: measured 0.949 of it after the first five."""
    total = row([0, 1, 2, 3, 4], 5, 20).sum()
    assert 0.94 < total < 1.0


def test_off_and_what_has_no_effect() -> None:
    assert forecasts(Request(), [True] * 3) == (None,) * 3
    assert not forecast_warnings(Request(), [None] * 3)
    asked = Request(forecast=True)
    assert not forecast_warnings(asked, forecasts(asked, [True] * 6))
    (text,) = forecast_warnings(asked, forecasts(asked, [True] * 5))
    assert "each of 5 steps is computed" in text
    with pytest.raises(RequestError, match="two ways"):
        forecasts(Request(forecast=True, cache_interval=2), [True])
