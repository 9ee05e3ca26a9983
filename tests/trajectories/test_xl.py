"""SDXL: whole trajectories against diffusers' own pipeline, on random models of its shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from oracle import trajectories
from oracle.measure import relative
from oracle.runs.xl import CASES, SUITE
from oracle.workshop import Workshop

# Relative L2 of the final latents. Measured over all cases: torch 1.1e-6, mlx 1.9e-6.
LIMITS = {"torch": 5e-6, "mlx": 1e-5}


@pytest.fixture(scope="module")
def expected(workshop: Workshop) -> Callable[[str], np.ndarray]:
    return trajectories.once(lambda name: SUITE.expected(CASES[name], workshop))


@pytest.mark.parametrize("name", CASES)
def test_trajectory(
    name: str, backend: str, workshop: Workshop, expected: Callable[[str], np.ndarray]
) -> None:
    found = SUITE.ours(CASES[name], workshop, backend)
    assert relative(found, expected(name)) < LIMITS[backend]
