"""At which steps there is guidance, as diffusers' guider has it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance

from ipa.prepare.guidance import guided_steps
from ipa.prepare.samplers.schedules import make_schedule
from ipa.request.request import Request

FRACTIONS = (0.0, 0.05, 0.1, 0.15, 0.29, 1 / 3, 0.5, 0.57, 0.7, 0.999, 1.0)


def _model(width: int | None = None) -> Any:
    return SimpleNamespace(unet=SimpleNamespace(guidance_width=width))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 20, 30, 100])
def test_guided_steps_are_those_of_diffusers(steps: int) -> None:
    pairs = [(start, end) for start in FRACTIONS for end in FRACTIONS if start < end]
    for start, end in pairs:
        guider = ClassifierFreeGuidance(5.0, start=start, stop=end)
        wanted = []
        for step in range(steps):
            guider.set_state(step=step, num_inference_steps=steps, timestep=torch.tensor(0))
            wanted.append(guider._is_cfg_enabled())
        request = Request(guidance_start=start, guidance_end=end)
        assert [*guided_steps(request, _model(), steps)] == wanted, (start, end)


def test_nothing_is_guided_where_the_network_takes_the_scale() -> None:
    assert guided_steps(Request(), _model(256), 2) == (False, False)
    assert guided_steps(Request(guidance_scale=1.0), _model(), 2) == (False, False)


@pytest.mark.parametrize("name", ["heun", "kdpm2", "kdpm2_ancestral", "pndm"])
@pytest.mark.parametrize("begin", [0, 2])
def test_no_step_is_split(name: str, begin: int) -> None:
    """A second evaluation does as the first, wherever an interval of evaluations begins or ends."""
    steps = make_schedule(name, {"clip_sample": False}, 7, begin=begin).steps
    seconds = {number for number, step in enumerate(steps) if step.second}
    assert len(seconds) == (1 if name == "pndm" else len(steps) // 2)
    pairs = [(start, end) for start in FRACTIONS for end in FRACTIONS if start < end]
    split = 0
    for start, end in pairs:
        request = Request(guidance_start=start, guidance_end=end)
        plain = guided_steps(request, _model(), len(steps))
        found = guided_steps(request, _model(), len(steps), seconds)
        for number, step in enumerate(steps):
            assert found[number] == plain[number - step.second]
        split += found != plain
    assert split


def test_of_other_samplers_no_evaluation_is_a_second() -> None:
    for name in ("euler", "ddim", "dpmpp_2m", "dpmpp_2s", "unipc", "lms"):
        assert not any(step.second for step in make_schedule(name, {}, 7).steps)
