"""Timesteps and noise levels of a call against those given to diffusers' schedulers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from diffusers.schedulers import AysSchedules
from diffusers.utils import logging

from ipa.errors import RequestError
from ipa.prepare.samplers.schedules import NAMES, make_schedule
from ipa.request.custom_steps import CustomSteps
from ipa.request.request import Request
from oracle.models import SCHEDULER
from oracle.schedulers import COMPARABLE, deviation, diffusers_scheduler, family_of

TIMESTEPS = tuple(AysSchedules["StableDiffusionTimesteps"])
SIGMAS = tuple(AysSchedules["StableDiffusionXLSigmas"])
TAKERS = (
    *("euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_sde", "ddpm", "lcm", "tcd"),
)
# Final latents, absolute, as in `test_samplers.py`: measured 5.0e-14.
LATENTS = 2e-13
NOISE_SCALE = 1.5e-7

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """diffusers warns of a distillation's other timesteps, and of singlestep orders."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@pytest.mark.parametrize("name", TAKERS)
def test_timesteps_equal_diffusers(name: str) -> None:
    for prediction, spacing in itertools.product(
        ("epsilon", "v_prediction"), ("leading", "trailing")
    ):
        config = {**SCHEDULER, "prediction_type": prediction, "timestep_spacing": spacing}
        for timesteps, begin in ((TIMESTEPS, 0), (TIMESTEPS[::3], 0), (TIMESTEPS, 3)):
            custom = {"timesteps": timesteps}
            found = deviation(name, config, len(timesteps), custom=custom, begin=begin)
            assert found.timesteps == 0.0, found
            assert found.noise_scale <= NOISE_SCALE, found
            assert found.latents <= LATENTS, found


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_fractions_equal_diffusers(name: str) -> None:
    custom = {"timesteps": (990.25, 500.5, 3.125)}
    found = deviation(name, SCHEDULER, 3, custom=custom)
    assert found.timesteps == 0.0 and found.latents <= LATENTS, found


@pytest.mark.parametrize("name", ["euler", "euler_karras"])
def test_sigmas_equal_diffusers(name: str) -> None:
    for spacing, sigmas in itertools.product(("leading", "trailing"), (SIGMAS, SIGMAS[:-1])):
        config = {**SCHEDULER, "timestep_spacing": spacing}
        found = deviation(name, config, len(sigmas) - 1, custom={"sigmas": sigmas})
        assert found.timesteps == 0.0, found
        assert found.noise_scale <= NOISE_SCALE, found
        assert found.latents <= LATENTS, found


def _refused(name: str, **custom: Any) -> bool:
    try:
        make_schedule(name, SCHEDULER, 10, custom=CustomSteps.of(**custom))
    except RequestError as error:
        return name in str(error)
    return False


@pytest.mark.parametrize("what", ["timesteps", "sigmas"])
def test_who_takes_them_takes_them_in_diffusers(what: str) -> None:
    """diffusers' own way to ask, and what its set_timesteps says of spaced levels and of UniPC."""
    given = {"timesteps": list(TIMESTEPS), "sigmas": list(SIGMAS)}[what]
    for name in (*{family_of(n) for n in COMPARABLE}, "euler_karras", "dpmpp_2m_karras"):
        try:
            diffusers_scheduler(name, SCHEDULER).set_timesteps(**{what: given})
        except (TypeError, ValueError):
            taken = False
        else:
            taken = True
        own = {"timesteps": None, "sigmas": None, what: given}
        assert _refused(name, **own) is not taken, name
    for name in set(NAMES) - set(COMPARABLE):
        assert _refused(name, **{"timesteps": None, "sigmas": None, what: given})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"timesteps": [9, 3], "sigmas": [1.0, 0.0]}, "both"),
        ({"timesteps": [9, 9, 3]}, "9 after 9"),
        ({"timesteps": [3, 9]}, "must fall"),
        ({"sigmas": [0.0, 14.0]}, "must fall"),
        ({"sigmas": [14.0]}, "2 to 1000"),
        ({"timesteps": []}, "1 to 1000"),
        ({"timesteps": 999}, "list of"),
        ({"timesteps": "999,3"}, "list of"),
        ({"timesteps": [float("inf"), 3]}, "finite"),
        ({"sigmas": [float("nan"), 0.0]}, "finite"),
        ({"timesteps": [10**400, 3]}, "finite"),
        ({"timesteps": [9, -1]}, "0 or more"),
        ({"timesteps": [True, 0]}, "finite"),
        ({"timesteps": [9, 3], "num_inference_steps": 3}, "=3, 2 by timesteps"),
        ({"sigmas": [9.0, 3.0, 0.0], "num_inference_steps": 3}, "=3, 2 by sigmas"),
    ],
)
def test_lists_that_make_no_sense_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        Request(**arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("euler", {"timesteps": [1000, 3]}, "from 999 to 0"),
        ("euler", {"sigmas": [15.0, 0.0]}, "14.61"),
        ("lcm", {"timesteps": [999, 499.5]}, "whole timesteps"),
        ("ddim", {"timesteps": [999, 3]}, "ddim takes no timesteps.*for euler, .*not for ddim"),
        ("unipc", {"sigmas": [9.0, 0.0]}, "unipc takes no sigmas"),
        ("euler_karras", {"timesteps": [999, 3]}, 'scheduler="euler"'),
    ],
)
def test_what_a_sampler_does_not_take_is_refused(
    name: str, arguments: dict[str, Any], match: str
) -> None:
    request = Request(**arguments)
    with pytest.raises(RequestError, match=match):
        make_schedule(name, SCHEDULER, request.steps, custom=request.custom_steps)


def test_a_request_counts_their_steps() -> None:
    assert Request().steps == 30 and Request(num_inference_steps=7).steps == 7
    assert Request(timesteps=np.array([9, 3])).timesteps == (9.0, 3.0)
    assert Request(timesteps=[9, 3], num_inference_steps=2).steps == 2
    assert Request(sigmas=np.float32([9, 3, 0])).steps == 2


def test_timesteps_that_a_model_was_not_distilled_on_are_told() -> None:
    on = make_schedule("lcm", SCHEDULER, 2, custom=CustomSteps.of([999, 499], None))
    off = make_schedule("tcd", SCHEDULER, 2, custom=CustomSteps.of([999, 500], None))
    assert on.warnings == () and make_schedule("lcm", SCHEDULER, 4).warnings == ()
    assert len(off.warnings) == 1 and "500 are not among the 50" in off.warnings[0]
