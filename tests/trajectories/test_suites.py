"""Whole trajectories against diffusers' own pipelines, on random models, by suite and case."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from oracle import trajectories
from oracle.measure import relative
from oracle.runs import (
    adapted,
    controlled_editing,
    controls,
    forecast,
    image_prompts,
    reuse,
    samplers,
    xl,
)
from oracle.workshop import Workshop

SUITES = {
    "image prompts": image_prompts.SUITE,
    "xl": xl.SUITE,
    "controlnet": controls.SUITE,
    "t2i_adapter": adapted.SUITE,
    "controlled editing": controlled_editing.SUITE,
    "samplers": samplers.SUITE,
    "reuse": reuse.SUITE,
    "forecast": forecast.SUITE,
}
"""Those of which there is nothing more to ask than that ours follows theirs."""


@pytest.fixture(scope="module")
def expected(workshop: Workshop) -> Callable[[tuple[str, str]], np.ndarray]:
    def judged(key: tuple[str, str]) -> np.ndarray:
        suite, name = key
        return SUITES[suite].expected(SUITES[suite].cases[name], workshop)

    return trajectories.once(judged)


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize(
    ("suite", "name"), [(suite, name) for suite in SUITES for name in SUITES[suite].cases]
)
def test_trajectory(
    suite: str,
    name: str,
    backend: str,
    workshop: Workshop,
    expected: Callable[[tuple[str, str]], np.ndarray],
) -> None:
    found = SUITES[suite].ours(SUITES[suite].cases[name], workshop, backend)
    limit = SUITES[suite].limits[backend]
    assert relative(found, expected((suite, name))) < limit
