"""At which steps there is guidance, as diffusers' guider has it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance

from ipa.prepare.guidance import guided_steps
from ipa.request.request import Request

FRACTIONS = (0.0, 0.05, 0.1, 0.29, 1 / 3, 0.5, 0.57, 0.7, 0.999, 1.0)


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
