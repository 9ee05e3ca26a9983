"""Multistep, two-evaluation, stochastic and distilled samplers against diffusers' schedulers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import mpmath
import numpy as np
import pytest
from diffusers.utils import logging

from ipa.backend.schedule import MAX_HISTORY
from ipa.errors import CheckpointError, RequestError
from ipa.prepare.samplers.noise_levels import beta_quantiles
from ipa.prepare.samplers.schedules import NAMES, make_schedule
from oracle.models import SCHEDULER
from oracle.schedulers import (
    COMPARABLE,
    Deviation,
    deviation,
    evaluations,
    family_of,
)

# Final latents, absolute, diffusers widened to float64 as in `test_schedules.py`: measured 1.1e-12
# (heun in two steps, from latents of 30), most below 1e-13.
WIDENED = 5e-12
# DPM2's half-way timesteps come out of float32 logarithms: measured 1.2e-4 of a timestep, which
# the fake network passes on as 8.3e-7; 1.3e-4 and 1.7e-6 in ancestral runs from pure noise.
HALF_WAY = 4e-6
HALF_WAY_TIMESTEP = 2e-4
TIMESTEP = 0.0
NOISE_SCALE = 1.5e-7

FORMER = ("ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras", "euler_karras")
NEW = tuple(name for name in COMPARABLE if name not in FORMER)
HALVING = ("kdpm2", "kdpm2_ancestral")
PLAIN = tuple(name for name in NEW if name == family_of(name) and name not in HALVING)
SPACINGS = ("leading", "linspace", "trailing")
PREDICTIONS = ("epsilon", "v_prediction")

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """diffusers' singlestep solver says at every run that its last step is of first order."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def _assert_same(found: Deviation, name: str) -> None:
    half_way = family_of(name) in HALVING
    fractional = HALF_WAY_TIMESTEP if half_way else TIMESTEP
    assert found.timesteps <= fractional, found
    assert found.noise_scale <= NOISE_SCALE, found
    assert found.latents <= (HALF_WAY if half_way else WIDENED), found


@pytest.mark.parametrize("name", PLAIN)
def test_whole_runs_equal_diffusers(name: str) -> None:
    for spacing, prediction in itertools.product(SPACINGS, PREDICTIONS):
        config = {**SCHEDULER, "timestep_spacing": spacing, "prediction_type": prediction}
        for steps in (1, 4, 20, 50) if spacing == "leading" else (4,):
            _assert_same(deviation(name, config, steps), name)


@pytest.mark.parametrize("name", [name for name in NEW if name not in PLAIN])
def test_levels_equal_diffusers(name: str) -> None:
    cases = zip(SPACINGS, (4, 20, 50), ("epsilon", "v_prediction", "epsilon"), strict=True)
    for spacing, steps, prediction in itertools.islice(cases, 1 if "kdpm2" in name else None):
        config = {**SCHEDULER, "timestep_spacing": spacing, "prediction_type": prediction}
        _assert_same(deviation(name, config, steps), name)


CLIP = {"clip_sample": True, "clip_sample_range": 0.7}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
HIGH = {**SIGMA_MIN, "lower_order_final": False}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
CASES: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "clip": (("heun", "ddpm", "lcm", "tcd"), CLIP),
    "zero SNR": (("unipc", "dpmpp_2m_sde", "ddpm", "lcm", "tcd", "dpmpp_2s"), ZERO_SNR),
    "to σ_min": (("unipc", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_sde", "unipc_karras"), SIGMA_MIN),
    "high order to the end": (("unipc", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_sde", "sa"), HIGH),
    "first order": (
        ("unipc", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_sde", "deis"),
        {"solver_order": 1},
    ),
    "third order": (("unipc", "dpmpp_2m", "dpmpp_2m_karras", "deis"), {"solver_order": 3}),
    "third order to the end": (("dpmpp_2m", "deis"), {**HIGH, "solver_order": 3}),
    "orders of SA": (("sa", "sa_karras"), {"predictor_order": 3, "corrector_order": 4}),
    "other orders of SA": (("sa",), {"predictor_order": 1, "corrector_order": 3}),
    "third order, bh1": (("unipc",), {**HIGH, "solver_order": 3, "solver_type": "bh1"}),
    "bh1": (("unipc", "dpmpp_2m_sde"), {**SIGMA_MIN, "solver_type": "bh1"}),
    "heun": (("unipc", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_sde"), {"solver_type": "heun"}),
    "clipped λ": (
        ("dpmpp_2m_sde", "dpmpp_2s", "unipc", "sa", "deis"),
        {"lambda_min_clipped": -1.5},
    ),
    "ᾱ of 1": (("pndm", "lcm", "tcd"), {"set_alpha_to_one": True, "steps_offset": 0}),
    "bounds": (
        (
            "lms_karras",
            "lms_exponential",
            "unipc_beta",
            "heun_karras",
            "dpmpp_sde_exponential",
            "deis_karras",
        ),
        {"sigma_min": 0.05, "sigma_max": 9.0},
    ),
    "cosine": (("unipc_karras", "dpmpp_2m_sde_karras", "dpmpp_2m_exponential", "pndm"), COSINE),
    "large variance": (("ddpm",), {"variance_type": "fixed_large"}),
    "logarithm of the variance": (("ddpm",), {"variance_type": "fixed_small_log"}),
    "short training": (
        ("pndm", "unipc", "lms", "lcm", "tcd", "ddpm"),
        {"num_train_timesteps": 500},
    ),
    "another distillation": (
        ("lcm", "tcd"),
        {"original_inference_steps": 40, "timestep_scaling": 0.1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_options_equal_diffusers(case: str) -> None:
    names, options = CASES[case]
    config = {**SCHEDULER, "prediction_type": "v_prediction", **options}
    for name in names:
        for steps in (4, 15):
            _assert_same(deviation(name, config, steps), name)


@pytest.mark.parametrize(
    ("name", "eta"), [("ddim", 0.4), ("ddim", 1.0), ("tcd", 0.3), ("tcd", 0.5), ("tcd", 1.0)]
)
def test_eta_equals_diffusers(name: str, eta: float) -> None:
    for prediction, options in itertools.product(PREDICTIONS, ({}, CLIP)):
        config = {**SCHEDULER, "prediction_type": prediction, **options}
        for steps in (4, 20):
            _assert_same(deviation(name, config, steps, eta=eta), name)
    assert make_schedule(name, SCHEDULER, 4, eta=0.0) == make_schedule(name, SCHEDULER, 4)


@pytest.mark.parametrize(
    "name",
    ["dpmpp_2m", "euler", "kdpm2_ancestral", *(name for name in PLAIN if name != "lms")],
)
def test_runs_from_a_later_step_equal_diffusers(name: str) -> None:
    for steps, begin in ((6, 1), (7, 2), (16, 9)):
        _assert_same(deviation(name, SCHEDULER, steps, begin=begin), name)


def test_lms_from_a_later_step_begins_with_eulers() -> None:
    """diffusers takes the weights of as many derivatives as it would have, and drops some."""
    rows = make_schedule("lms", SCHEDULER, 8, begin=3).steps
    first = make_schedule("euler", SCHEDULER, 8, begin=3).steps[0]
    assert [len(row.x_history) for row in rows] == [0, 1, 2, 3, 3]
    assert math.isclose(rows[0].x_x, first.x_x, rel_tol=1e-12)


def test_rows_are_evaluations() -> None:
    for name, steps in itertools.product(NEW, (1, 2, 9)):
        rows = make_schedule(name, SCHEDULER, steps).steps
        assert len(rows) == evaluations(name, steps)
        assert max(len(row.x_history) for row in rows) <= MAX_HISTORY


def test_coefficients_are_pythons_own_floats() -> None:
    """A numpy scalar on the left of a backend's tensor would make a numpy array of it."""
    for name in NAMES:
        for row in make_schedule(name, SCHEDULER, 9, eta=0.3 if name == "tcd" else 0.0).steps:
            values = [getattr(row, field.name) for field in dataclasses.fields(row)]
            flat = [v for value in values for v in (value if type(value) is tuple else (value,))]
            assert {type(value) for value in flat} <= {float, bool, type(None)}, name


def test_a_spacing_of_the_call_is_that_of_a_config() -> None:
    live = {**SCHEDULER, "_use_default_values": ["timestep_spacing"]}
    for name in (name for name in NAMES if not name.startswith(("lcm", "tcd", "dpmpp_2s"))):
        if name.startswith("dpmpp_sde"):
            continue
        wanted = make_schedule(name, {**SCHEDULER, "timestep_spacing": "trailing"}, 5)
        for config in (SCHEDULER, live):
            assert make_schedule(name, config, 5, timestep_spacing="trailing") == wanted


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match="unipc takes no eta"):
        make_schedule("unipc", SCHEDULER, 4, eta=0.5)
    with pytest.raises(RequestError, match="no timestep_spacing"):
        make_schedule("lcm", SCHEDULER, 4, timestep_spacing="trailing")
    with pytest.raises(RequestError, match="trailing"):
        make_schedule("euler", SCHEDULER, 4, timestep_spacing="sgm_uniform")
    for name in ("lcm", "tcd"):
        with pytest.raises(RequestError, match="at most 50"):
            make_schedule(name, SCHEDULER, 51)
    for name in ("ddpm", "lcm", "tcd"):
        with pytest.raises(CheckpointError, match="v_prediction"):
            make_schedule(name, {**SCHEDULER, **ZERO_SNR}, 4)


def test_the_beta_law_has_its_quantiles() -> None:
    """By mpmath's incomplete beta function, to 25 digits."""
    probabilities = np.array([0.0, 1e-9, 0.003, 0.2, 0.5, 0.77, 0.999, 1.0])
    with mpmath.workdps(25):
        back = [
            float(mpmath.betainc(0.6, 0.6, 0, x, regularized=True))
            for x in beta_quantiles(probabilities).tolist()
        ]
    assert np.abs(np.array(back) - probabilities).max() < 5e-15  # measured 1.2e-15


def test_steps_of_the_same_level_keep_rows_finite() -> None:
    for name in ("lms_karras", "heun_karras", "unipc_karras", "dpmpp_sde_karras", "kdpm2_beta"):
        config = {**SCHEDULER, **HIGH, "sigma_min": 2.0, "sigma_max": 2.0}
        for row in make_schedule(name, config, 6).steps:
            values = [v for f in dataclasses.fields(row) for v in np.ravel(getattr(row, f.name))]
            assert np.isfinite([v for v in values if v is not None]).all()
