"""Our rows against diffusers' schedulers: timesteps, and whole trajectories of a fake network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from ipa.errors import CheckpointError, RequestError
from ipa.prepare.samplers.schedules import (
    NAMES,
    clipping_warning,
    make_schedule,
    pipeline_config,
    scheduler_name,
)
from oracle.models import SCHEDULER
from oracle.schedulers import (
    OWN_NAMES,
    deviation,
    deviation_table,
    diffusers_scheduler,
    fake_network,
    format_table,
    run_diffusers,
    run_rows,
    starting_noise,
    step_noise,
    timed_scheduler,
)

# Final latents in units of the largest factor on the network's output, diffusers widened to float64
# and its tables rounded once (see `oracle.schedulers.RoundedOnce`): measured 2.2e-12, for the
# cosine schedule, and 1e-14 for Stable Diffusion's.
WIDENED = 5e-12
# Zero terminal SNR with epsilon: absolute, where latents begin at 16384. Measured 1.6e-11.
ZERO_SNR = 5e-11
# Fractional timesteps under Karras levels. Measured: equal.
TIMESTEP = 0.0
# The factor on the starting noise, relative: roundings of float32. Measured 5.9e-8, 8.7e-8, 1.4e-7
# by machine.
NOISE_SCALE = 1.5e-7
# diffusers as it is rounds latents to float32 at every step, and its tables as torch's roots do on
# this machine: measured 1.4e-5 and 1.7e-5 on two, where latents reach 50.
ROUNDED = 3e-5
# The formulas of this file in float64, its own tables unrounded: measured 2.0e-6 (ddim_karras) and
# 3.2e-6; 1 − ᾱ in float32 alone moves σ_min by 3.5e-5 of itself.
INDEPENDENT = 5e-6

# diffusers 0.42 converts tensors in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# `test_samplers.py` has the others.
COMPARABLE = ("ddim", "euler", "euler_karras", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras")
SPACINGS = ("leading", "linspace", "trailing")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": list(np.linspace(0.001, 0.013, 1000) ** 1.02)},
    "clip": {"clip_sample": True, "clip_sample_range": 0.7},
    "alpha_one": {"set_alpha_to_one": True, "steps_offset": 0},
    "zero_snr": {"rescale_betas_zero_snr": True},
    "sigma_min": {"final_sigmas_type": "sigma_min"},
    "high_order_final": {"final_sigmas_type": "sigma_min", "lower_order_final": False},
    "euler_final": {"final_sigmas_type": "sigma_min", "euler_at_final": True},
    "heun": {"solver_type": "heun"},
    "bh2": {"solver_type": "bh2"},
    "deis": {
        "algorithm_type": "deis",
        "solver_type": "logrho",
        "final_sigmas_type": "sigma_min",
    },
    "first_order": {"solver_order": 1},
    "sigma_range": {"sigma_min": 0.05, "sigma_max": 9.0},
    "lambda_clipped": {"lambda_min_clipped": -1.5},
    "short_training": {"num_train_timesteps": 500},
}
# As published with Stable Diffusion 1.5 and SDXL.
SD15 = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def _assert_same_run(
    name: str, config: Mapping[str, Any], steps: int, allowed: float | None = None
) -> None:
    schedule = make_schedule(name, config, steps)
    magnified = max(1.0, *(abs(s.denoised_output) for s in schedule.steps))
    found = deviation(name, config, steps)
    assert found.timesteps <= (TIMESTEP if name == "euler_karras" else 0.0), found
    assert found.noise_scale <= NOISE_SCALE, found
    assert found.latents <= (allowed or WIDENED * magnified), found


def _in_diffusers(name: str, prediction: str) -> bool:
    return not (name == "euler_ancestral" and prediction == "sample")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", COMPARABLE)
def test_whole_runs_equal_diffusers(name: str, spacing: str, prediction: str) -> None:
    config = {**SCHEDULER, "timestep_spacing": spacing, "prediction_type": prediction}
    for steps in (1, 2, 4, 20, 50) if _in_diffusers(name, prediction) else ():
        _assert_same_run(name, config, steps)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", COMPARABLE)
def test_options_equal_diffusers(name: str, option: str) -> None:
    # DDIM divides by a signal of 0 there, and Heun's rule by a step of 0: both have own tests.
    config = {**SCHEDULER, **OPTIONS[option], "prediction_type": "v_prediction"}
    for spacing in SPACINGS:
        for steps in (4, 20):
            _assert_same_run(name, {**config, "timestep_spacing": spacing}, steps)


@pytest.mark.parametrize("name", [n for n in COMPARABLE if n != "ddim"])
def test_zero_terminal_snr_with_epsilon_equals_diffusers(name: str) -> None:
    for spacing in SPACINGS:
        config = {**SCHEDULER, **OPTIONS["zero_snr"], "timestep_spacing": spacing}
        _assert_same_run(name, config, 20, ZERO_SNR)


@pytest.mark.parametrize(
    "config", [SD15, SDXL, SCHEDULER, {}], ids=["sd15", "sdxl", "demo", "none"]
)
@pytest.mark.parametrize("name", COMPARABLE)
def test_a_config_of_another_class_is_read_as_from_config_reads_it(
    name: str, config: Mapping[str, Any]
) -> None:
    _assert_same_run(name, config, 20)


@pytest.mark.parametrize("name", COMPARABLE)
@pytest.mark.parametrize(
    "other",
    [PNDMScheduler, DDIMScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler],
    ids=lambda c: c.__name__,
)
def test_a_live_config_of_diffusers_is_read_as_from_config_reads_it(name: str, other: Any) -> None:
    """Such a config lists the keys that were left at a default of its own class."""
    _assert_same_run(name, other(beta_schedule="scaled_linear").config, 20)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", COMPARABLE)
def test_timesteps_equal_diffusers_for_many_counts(name: str, spacing: str) -> None:
    config = {**SCHEDULER, "timestep_spacing": spacing}
    counts = (
        range(1, 60, 6) if name.endswith("karras") else (*range(1, 64), 103, 250, 499, 777, 998)
    )
    for count in counts:
        scheduler = timed_scheduler(name, config, count, exact=True)
        ours = [step.timestep for step in make_schedule(name, config, count).steps]
        assert len(ours) == count
        wanted = scheduler.timesteps.numpy()[:count]
        allowed = TIMESTEP if name == "euler_karras" else 0.0
        assert np.abs(np.array(ours) - wanted).max() <= allowed, count


def test_the_superfluous_trailing_timestep_of_diffusers_is_cut() -> None:
    config = {**SCHEDULER, "timestep_spacing": "trailing"}
    for name in ("ddim", "euler", "dpmpp_2m"):
        scheduler = diffusers_scheduler(name, config)
        scheduler.set_timesteps(61)
        assert len(scheduler.timesteps) == 62 and scheduler.timesteps[-1] == -1
        assert [s.timestep for s in make_schedule(name, config, 61).steps][-1] >= 0


def test_the_table_of_deviations() -> None:
    widened, rounded = (deviation_table(double=d, names=COMPARABLE) for d in (True, False))
    print("\ndiffusers widened to float64", format_table(widened), sep="\n")
    print("\ndiffusers as it is", format_table(rounded), sep="\n")
    assert max(row.latents for row in widened) <= 2 * WIDENED  # absolute: measured 6e-14; 1.5e-6
    assert max(row.latents for row in rounded) <= ROUNDED


def _independent_levels(config: Mapping[str, Any], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Karras' levels and their timesteps from the formulas alone, all in float64."""
    roots = np.linspace(math.sqrt(config["beta_start"]), math.sqrt(config["beta_end"]), 1000)
    bars = np.cumprod(1.0 - roots**2)
    sigmas = np.sqrt((1.0 - bars) / bars)
    spaced = {
        "leading": np.arange(steps)[::-1] * (1000 // steps) + config["steps_offset"],
        "linspace": np.linspace(999, 0, steps),
        "trailing": np.round(np.arange(1000, 0, -1000 / steps)) - 1,
    }[config["timestep_spacing"]]
    high, low = np.interp(spaced[[0, -1]], np.arange(1000), sigmas)
    ramp = np.linspace(0.0, 1.0, steps)
    levels = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    return np.interp(np.log(levels), np.log(sigmas), np.arange(1000.0)), np.append(levels, 0.0)


def _independent_run(name: str, config: Mapping[str, Any], steps: int) -> np.ndarray:
    """The samplers that diffusers does not have, from their papers."""
    timesteps, levels = _independent_levels(config, steps)
    latents = starting_noise()
    if name == "euler_ancestral_karras":
        leading = config["timestep_spacing"] == "leading"
        latents = latents * (math.hypot(levels[0], 1.0) if leading else levels[0])
    for index, time in enumerate(timesteps):
        sigma, after = levels[index], levels[index + 1]
        root = math.hypot(sigma, 1.0)
        if name == "ddim_karras":
            output = fake_network(latents, time)
            noise, clean = {
                "epsilon": lambda x, o, s=sigma, r=root: (o, r * x - s * o),
                "v_prediction": lambda x, o, s=sigma, r=root: ((o + s * x) / r, (x - s * o) / r),
            }[config["prediction_type"]](latents, output)
            latents = (clean + after * noise) / math.hypot(after, 1.0)
            continue
        output = fake_network(latents / root, time)
        noise = output
        if config["prediction_type"] == "v_prediction":
            noise = (latents - (latents / root - sigma * output) / root) / sigma
        up = after * math.sqrt(1.0 - (after / sigma) ** 2)
        down = after**2 / sigma
        latents = latents + (down - sigma) * noise + up * step_noise(index)
    return latents


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", OWN_NAMES)
def test_samplers_of_our_own_follow_their_formulas(
    name: str, spacing: str, prediction: str
) -> None:
    config = {**SCHEDULER, "timestep_spacing": spacing, "prediction_type": prediction}
    for steps in (4, 20, 50):
        ours = run_rows(make_schedule(name, config, steps)).latents
        wanted = _independent_run(name, config, steps)
        assert np.abs(ours - wanted).max() <= INDEPENDENT * max(1.0, np.abs(wanted).max()), steps


def test_karras_ddim_uses_its_last_step() -> None:
    """The last Karras level is σ_min already: a step to ᾱ_0 would leave the latents as they are."""
    last = make_schedule("ddim_karras", SCHEDULER, 8).steps[-1]
    assert (last.x_x, last.x_output, last.x_denoised) == (0.0, 0.0, 1.0)


def test_every_sampler_accepts_every_prediction_type_and_one_step() -> None:
    for name in NAMES:
        for prediction in (*PREDICTIONS, "original_sample"):
            if name == "pndm" and "sample" in prediction:
                continue
            schedule = make_schedule(name, {**SCHEDULER, "prediction_type": prediction}, 1)
            assert schedule.name == name and len(schedule.steps) == 1


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_finite_and_times_fall_at_any_count(name: str) -> None:
    most = 50 if name in {"lcm", "tcd"} else 998
    # diffusers rounds the timesteps of DPM2's first evaluations here, not of the second.
    rise = 0.5 if name in {"kdpm2_karras", "kdpm2_ancestral_karras"} else 0.0
    if name.startswith("kdpm2_ancestral_"):  # σ σ_down = σ'²: equal but for one float32 step
        rise = max(rise, 6.2e-5)
    for spacing in SPACINGS if name in COMPARABLE else ("linspace",):
        for count in {1, 2, 3, 14, 15, min(333, most), most}:
            config = {**SCHEDULER, "timestep_spacing": spacing, "solver_type": "heun"}
            schedule = make_schedule(name, config, count)
            rows = [
                value
                for step in schedule.steps
                for field in step.__slots__
                for value in np.ravel(getattr(step, field) or 0.0)
            ]
            times = np.array([step.timestep for step in schedule.steps])
            assert np.isfinite(rows).all() and math.isfinite(schedule.noise_scale)
            assert (times >= 0).all() and (times < 1000).all() and (np.diff(times) <= rise).all()


def test_a_repeated_level_keeps_rows_finite() -> None:
    """diffusers divides 0 by 0 there."""
    config = {**SCHEDULER, "final_sigmas_type": "sigma_min", "solver_type": "heun"}
    config["lower_order_final"] = False
    theirs = run_diffusers("dpmpp_2m_karras", config, 20, double=True)
    assert np.isnan(theirs.latents).all()
    assert np.isfinite(run_rows(make_schedule("dpmpp_2m_karras", config, 20)).latents).all()
    full = make_schedule("dpmpp_2m", {**SCHEDULER, "timestep_spacing": "linspace"}, 1000)
    assert np.isfinite(run_rows(full).latents).all()


@pytest.mark.parametrize("name", ["euler_ancestral", "euler_ancestral_karras"])
def test_the_last_ancestral_step_adds_no_noise(name: str) -> None:
    noises = [step.x_noise for step in make_schedule(name, SCHEDULER, 12).steps]
    assert all(noise > 0 for noise in noises[:-1]) and noises[-1] == 0.0


def test_who_adds_noise_and_who_clips() -> None:
    config = {**SCHEDULER, "clip_sample": True, "clip_sample_range": 2.0}
    noisy = ("euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde", "ddpm", "lcm", "sa", "kdpm2_ancestral")
    clipping = ("ddim", "ddpm", "heun", "lcm")
    for name in NAMES:
        steps = make_schedule(name, config, 6).steps
        assert any(s.x_noise for s in steps) == name.startswith(noisy)
        assert {s.clip for s in steps} == ({2.0} if name.startswith(clipping) else {None})


@pytest.mark.parametrize("levels", ["karras", "exponential", "beta"])
def test_the_name_decides_about_levels(levels: str) -> None:
    config = {**SDXL, f"use_{levels}_sigmas": True}
    assert make_schedule("euler", config, 9) == make_schedule("euler", SDXL, 9)
    assert make_schedule(None, config, 9) == make_schedule(f"euler_{levels}", SDXL, 9)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"_class_name": "DDIMScheduler", "use_karras_sigmas": True}, "ddim"),
        ({"_class_name": "EulerDiscreteScheduler"}, "euler"),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}, "euler_karras"),
        ({"_class_name": "EulerAncestralDiscreteScheduler"}, "euler_ancestral"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": None}, "dpmpp_2m"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
            "dpmpp_2m_karras",
        ),
        (
            {
                "_class_name": "DPMSolverMultistepScheduler",
                "algorithm_type": "sde-dpmsolver++",
                "use_exponential_sigmas": True,
            },
            "dpmpp_2m_sde_exponential",
        ),
        ({"_class_name": "DPMSolverSinglestepScheduler"}, "dpmpp_2s"),
        (
            {
                "_class_name": "DPMSolverSinglestepScheduler",
                "algorithm_type": "sde-dpmsolver++",
            },
            "dpmpp_sde",
        ),
        (SD15, "pndm"),
        ({"_class_name": "UniPCMultistepScheduler", "use_beta_sigmas": True}, "unipc_beta"),
        ({"_class_name": "LMSDiscreteScheduler", "use_karras_sigmas": True}, "lms_karras"),
        ({"_class_name": "HeunDiscreteScheduler"}, "heun"),
        ({"_class_name": "KDPM2DiscreteScheduler"}, "kdpm2"),
        ({"_class_name": "KDPM2AncestralDiscreteScheduler"}, "kdpm2_ancestral"),
        ({"_class_name": "DEISMultistepScheduler", "use_karras_sigmas": True}, "deis_karras"),
        ({"_class_name": "SASolverScheduler"}, "sa"),
        ({"_class_name": "DDPMScheduler", "use_karras_sigmas": True}, "ddpm"),
        ({"_class_name": "LCMScheduler"}, "lcm"),
        ({"_class_name": "TCDScheduler"}, "tcd"),
    ],
)
def test_implemented_classes_have_names(config: Mapping[str, Any], name: str) -> None:
    assert scheduler_name(config) == (name, None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("PNDMScheduler", "pndm"),
        ("DPMSolverSDEScheduler", "dpmpp_sde"),
    ],
)
def test_other_classes_have_a_stand_in_and_a_warning(kind: str, name: str) -> None:
    found, warning = scheduler_name({"_class_name": kind})
    assert found == name and warning is not None and kind in warning and name in warning
    karras, _ = scheduler_name({"_class_name": kind, "use_karras_sigmas": True})
    has_karras = kind == "DPMSolverSDEScheduler"
    assert karras == (f"{name}_karras" if has_karras else name)


@pytest.mark.parametrize("config", [{}, {"_class_name": "FlowMatchEulerDiscreteScheduler"}])
def test_other_kinds_of_model_are_refused(config: Mapping[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="scheduler="):
        scheduler_name(config)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("dpmp_2m", "dpmpp_2m"), ("eulerr", "euler"), ("euler_karas", "euler_karras")],
)
def test_an_unknown_name_is_told_the_nearest(wrong: str, nearest: str) -> None:
    """And two more; where to find the others, not all of them on one line."""
    with pytest.raises(RequestError, match=f"did you mean '{nearest}', '.+' or '.+'. All ") as told:
        make_schedule(wrong, SCHEDULER, 10)
    assert len(str(told.value)) < 300 and "docs/reference/samplers.md" in str(told.value)


@pytest.mark.parametrize("steps", [0, -3, 1001, 2.0, True, None])
def test_impossible_step_counts_are_refused(steps: Any) -> None:
    with pytest.raises(RequestError, match="num_inference_steps"):
        make_schedule("ddim", SCHEDULER, steps)


@pytest.mark.parametrize(("name", "count"), [("ddim", 1000), ("euler", 1000), ("dpmpp_2m", 1000)])
def test_counts_that_leave_the_training_steps_are_refused(name: str, count: int) -> None:
    with pytest.raises(RequestError, match="num_inference_steps"):
        make_schedule(name, SCHEDULER, count)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("ddim", "thresholding", True),
        ("dpmpp_2m", "thresholding", True),
        ("euler", "timestep_type", "continuous"),
        ("euler", "interpolation_type", "log_linear"),
        ("dpmpp_2m", "use_lu_lambdas", True),
        ("dpmpp_2m", "use_flow_sigmas", True),
        ("dpmpp_2m", "use_dynamic_shifting", True),
        ("dpmpp_2m", "variance_type", "learned"),
        ("dpmpp_2m", "algorithm_type", "dpmsolver"),
        ("dpmpp_2m", "solver_order", 4),
        ("dpmpp_2m_sde", "solver_order", 3),
        ("dpmpp_2s", "solver_order", 3),
        ("deis", "algorithm_type", "sde-dpmsolver++"),
        ("sa", "corrector_order", 5),
        ("sa", "algorithm_type", "noise_prediction"),
        ("dpmpp_2m", "solver_type", "unheard"),
        ("dpmpp_2m", "final_sigmas_type", "one"),
        ("dpmpp_2m", "prediction_type", "flow_prediction"),
        ("ddim", "prediction_type", None),
        ("ddim", "timestep_spacing", "random"),
        ("ddim", "beta_schedule", "sigmoid"),
        ("ddim", "beta_start", 0.0),
        ("ddim", "beta_end", "0.012"),
        ("ddim", "beta_end", float("nan")),
        ("ddim", "trained_betas", [0.1, 0.2]),
        ("ddim", "trained_betas", [0.1] * 999 + [None]),
        ("ddim", "num_train_timesteps", 0),
        ("ddim", "num_train_timesteps", 10**12),
        ("ddim", "steps_offset", -1),
        ("ddim", "clip_sample", "no"),
        ("euler_karras", "sigma_min", 0.0),
        ("unipc", "predict_x0", False),
        ("unipc", "solver_order", 4),
        ("unipc", "disable_corrector", [0]),
        ("pndm", "prediction_type", "sample"),
        ("ddpm", "variance_type", "learned_range"),
        ("lcm", "original_inference_steps", 0),
        ("tcd", "thresholding", True),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(name: str, key: str, value: Any) -> None:
    config = {**SCHEDULER, key: value}
    with pytest.raises(CheckpointError, match="beta" if "beta_s" in key else key):
        make_schedule(name, config, 10)


def test_options_of_other_classes_do_not_matter() -> None:
    noisy = {**SCHEDULER, "thresholding": True, "use_beta_sigmas": True, "solver_order": 3}
    assert make_schedule("euler_ancestral", noisy, 5) == make_schedule(
        "euler_ancestral", SCHEDULER, 5
    )


def test_ddim_cannot_start_without_signal_on_epsilon() -> None:
    config = {**SCHEDULER, **OPTIONS["zero_snr"], "timestep_spacing": "trailing"}
    with pytest.raises(CheckpointError, match="v_prediction"):
        make_schedule("ddim", config, 10)


def test_stable_diffusions_pipelines_correct_two_keys() -> None:
    corrected = pipeline_config({"_class_name": "DDIMScheduler", "beta_start": 0.1})
    assert corrected["steps_offset"] == 1 and corrected["clip_sample"] is False
    assert corrected["beta_start"] == 0.1


UNSAID: dict[str, dict[str, Any]] = {
    "nothing": {},
    "null": {"clip_sample": None},
    "a default that diffusers filled in": {
        "clip_sample": True,
        "_use_default_values": ["clip_sample"],
    },
}


@pytest.mark.parametrize("said", UNSAID)
def test_latents_are_clipped_only_where_a_file_says_so(said: str) -> None:
    """diffusers' DDIM and DDPM would clip at ±1, which is made for pixels."""
    plain = {k: v for k, v in SCHEDULER.items() if k not in {"clip_sample", "_class_name"}}
    config = pipeline_config({**plain, **UNSAID[said]}, is_xl=True)
    wanted = pipeline_config({**plain, "clip_sample": False}, is_xl=True)
    clipping = []
    for name in NAMES:
        rows = make_schedule(name, config, 4)
        assert rows == make_schedule(name, wanted, 4)
        assert all(step.clip is None for step in rows.steps)
        assert clipping_warning(name, {"clip_sample": False}, is_xl=True) == []
        if clipping_warning(name, {**plain, **UNSAID[said]}, is_xl=True):
            clipping.append(name)
    assert clipping == ["ddim", "ddim_karras", "ddpm"]  # those whose default it is in diffusers


def test_clipping_that_a_file_asks_for_is_done_and_said() -> None:
    config = {**SCHEDULER, "clip_sample": True, "clip_sample_range": 2.0}
    told = [name for name in NAMES if clipping_warning(name, config, is_xl=True)]
    families = {name.partition("_")[0] for name in told}
    assert families == {"ddim", "ddpm", "heun", "lcm"}
    for name in told:
        rows = make_schedule(name, pipeline_config(config, is_xl=True), 4)
        assert all(step.clip == 2.0 for step in rows.steps), name
        assert "±2" in clipping_warning(name, config, is_xl=True)[0]
    assert clipping_warning("ddim", config) == []  # other pipelines switch it off
