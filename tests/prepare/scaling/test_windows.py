"""When image prompts are on, by three programs' rules."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diffusers.callbacks import IPAdapterScaleCutoffCallback
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.prepare.samplers.schedules import NAMES, make_schedule, training_levels
from ipa.prepare.scaling.curves import NoiseTimes, is_open, level_at, open_steps
from oracle import comfyui
from oracle.models import SCHEDULER
from oracle.schedulers import COMPARABLE, evaluations, family_of, timed_scheduler

fraction = st.floats(0.0, 1.0, allow_nan=False)
SIGMAS = comfyui.training_sigmas(SCHEDULER)


def times(name: str = "euler", steps: int = 20, **changes: Any) -> NoiseTimes:
    schedule = make_schedule(name, SCHEDULER | changes, steps)
    levels = np.array([step.sigma for step in schedule.steps], np.float32)
    return NoiseTimes(levels, training_levels(name, SCHEDULER | changes))


@settings(max_examples=100, deadline=None)
@given(fraction, fraction, st.integers(1, 60))
def test_fraction_is_the_houses_rule(one: float, two: float, steps: int) -> None:
    start, end = sorted((one, two))
    expected = [is_open(start, end, step, steps) for step in range(steps)]
    assert open_steps("fraction", start, end, times(steps=steps)).tolist() == expected


def cut_off(end: float, steps: int) -> list[bool]:
    """diffusers' own callback, on a pipeline that only remembers whether it was called."""
    seen, scale = [], [1.0]

    def set_scale(value: float) -> None:
        scale[0] = value

    pipe = SimpleNamespace(num_timesteps=steps, set_ip_adapter_scale=set_scale)
    callback = IPAdapterScaleCutoffCallback(cutoff_step_ratio=end)
    for step in range(steps):
        seen.append(scale[0] != 0.0)
        callback(pipe, step, None, {})
    return seen


@settings(max_examples=200, deadline=None)
@given(fraction | st.integers(0, 100).map(lambda n: n / 100), st.integers(1, 60))
def test_cutoff_is_diffusers_callback(end: float, steps: int) -> None:
    there = cut_off(end, steps)
    assert open_steps("cutoff", 0.0, end, times(steps=steps)).tolist() == there
    if end > 0.0:  # a start is where an end would be
        late = open_steps("cutoff", end, 1.0, times(steps=steps))
        assert late.tolist() == [not on for on in there]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [7, 20])
def test_sigma_is_comfyuis(name: str, steps: int) -> None:
    """Every sampler gates at its own steps. Draws nearer to a level than rounding are left out."""
    run, random = times(name, steps), np.random.default_rng(steps)
    counts = set()
    for _ in range(60):
        start, end = np.sort(random.random(2)).tolist()
        edges = [comfyui.sigma_at(f, SIGMAS) for f in (start, end)]
        if any(np.isclose(run.steps, edge, rtol=1e-4).any() for edge in edges):
            continue
        expected = [comfyui.is_on(start, end, float(s), SIGMAS) for s in run.steps]
        assert open_steps("sigma", start, end, run).tolist() == expected
        counts.add(sum(expected))
    assert len(counts) > 1


def test_levels() -> None:
    """P against float64 over the whole range: measured 4.4e-6, as the table of float32 has it."""
    training = training_levels("euler", SCHEDULER)
    for share in np.linspace(0.001, 0.999, 500).tolist():
        expected = comfyui.sigma_at(share, SIGMAS)
        assert level_at(share, training) == pytest.approx(expected, rel=1e-5)
    assert level_at(0.0, training) > training[-1] and level_at(1.0, training) == 0.0
    # A training timestep itself is that level to the bit: both ends of a window are included.
    assert level_at(1 / 3, training) == training[666]
    at = NoiseTimes(training[[667, 666, 665]], training)
    assert open_steps("sigma", 1 / 3, 1.0, at).tolist() == [False, True, True]
    assert open_steps("sigma", 0.0, 1 / 3, at).tolist() == [True, True, False]


def test_a_training_of_other_length_has_no_level_beyond_its_own() -> None:
    """ComfyUI counts to 999 whatever the length: the noisiest level stands for what is over."""
    training = training_levels("euler", SCHEDULER | {"num_train_timesteps": 500})
    assert level_at(0.2, training) == training[-1] == level_at(0.5, training)
    assert level_at(0.6, training) < training[-1]


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize("name", COMPARABLE)
def test_steps_know_their_noise(name: str) -> None:
    """Against the levels of diffusers' samplers, in float32. Measured: 1.3e-7."""
    scheduler = timed_scheduler(name, SCHEDULER, 9, exact=False)
    count = evaluations(name, 9)
    if not hasattr(scheduler, "sigmas"):
        signal = scheduler.alphas_cumprod[scheduler.timesteps].double()
        expected = ((1 - signal) / signal).sqrt()
    else:
        expected = scheduler.sigmas[:count].double()
    if family_of(name) == "kdpm2":  # every other evaluation is half-way
        expected[1::2] = scheduler.sigmas_interpol[1:count:2].double()
    assert np.allclose(times(name, 9).steps, expected.numpy(), rtol=3e-7, atol=0)


def test_no_signal_is_a_finite_level() -> None:
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    run = times("ddim", 4, **changes, prediction_type="v_prediction")
    assert np.isfinite(run.steps).all() and np.isfinite(run.training).all()
    assert open_steps("sigma", 0.0, 0.5, run)[0]
