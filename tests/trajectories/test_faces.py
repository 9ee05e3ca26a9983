"""FaceID, FaceID-Plus, its version 2, Portrait and unnorm: whole trajectories of diffusers."""

from __future__ import annotations

import pytest

from oracle.measure import relative
from oracle.runs.faces import AT_ZERO, CASES, SUITE
from oracle.workshop import Workshop


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("name", CASES)
def test_trajectories(name: str, workshop: Workshop) -> None:
    wanted = SUITE.expected(CASES[name], workshop)
    for backend, limit in SUITE.limits.items():
        assert relative(SUITE.ours(CASES[name], workshop, backend), wanted) < limit, backend


@pytest.mark.parametrize("name", AT_ZERO)
def test_the_lora_at_zero(name: str, workshop: Workshop) -> None:
    """λ is 0 and the LoRA on, by each program's profile: diffusers' adapter at scale 0."""
    wanted = SUITE.expected(AT_ZERO[name], workshop)
    for backend, limit in SUITE.limits.items():
        assert relative(SUITE.ours(AT_ZERO[name], workshop, backend), wanted) < limit, backend
