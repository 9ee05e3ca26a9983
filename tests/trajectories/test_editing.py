"""Pictures to start from and masks: whole runs against diffusers' own pipelines."""

from __future__ import annotations

import pytest

from oracle.measure import relative
from oracle.runs.editing import CASES, ONE_GENERATOR, SUITE
from oracle.workshop import Workshop


@pytest.mark.parametrize("name", CASES)
def test_trajectory(name: str, workshop: Workshop) -> None:
    expected = SUITE.expected(CASES[name], workshop)
    for backend, limit in SUITE.limits.items():
        assert relative(SUITE.ours(CASES[name], workshop, backend), expected) < limit


@pytest.mark.parametrize("name", ONE_GENERATOR)
def test_one_generator(name: str, workshop: Workshop) -> None:
    """Posteriors, starting noise and later noise in diffusers' order, from a single generator."""
    expected = SUITE.expected(ONE_GENERATOR[name], workshop)
    for backend, limit in SUITE.limits.items():
        found = SUITE.ours(ONE_GENERATOR[name], workshop, backend)
        assert relative(found, expected) < limit, backend
