"""diffusers' schedulers behind our names, a fake network, and whole trajectories with both.

Printed by `cd tests && python -m oracle.schedulers`: how far our rows are from diffusers' samplers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    SASolverScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from torch.overrides import TorchFunctionMode

from ipa.backend.schedule import Schedule
from ipa.prepare.samplers.schedules import NAMES, make_schedule
from ipa.request.custom_steps import CustomSteps

from .models import SCHEDULER
from .scipy_stand_in import scipy_or_stand_in

CLASSES: Mapping[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "dpmpp_2m_sde": DPMSolverMultistepScheduler,
    "dpmpp_2s": DPMSolverSinglestepScheduler,
    "dpmpp_sde": DPMSolverSinglestepScheduler,
    "unipc": UniPCMultistepScheduler,
    "deis": DEISMultistepScheduler,
    "sa": SASolverScheduler,
    "heun": HeunDiscreteScheduler,
    "kdpm2": KDPM2DiscreteScheduler,
    "kdpm2_ancestral": KDPM2AncestralDiscreteScheduler,
    "lms": LMSDiscreteScheduler,
    "pndm": PNDMScheduler,
    "ddpm": DDPMScheduler,
    "lcm": LCMScheduler,
    "tcd": TCDScheduler,
}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++"},
    "dpmpp_sde": {"algorithm_type": "sde-dpmsolver++"},
    "pndm": {"skip_prk_steps": True},
}
Custom = Mapping[str, tuple[float, ...]]
NOTHING: Custom = MappingProxyType({})
_LEVELS = ("karras", "exponential", "beta")
TWICE = ("heun", "kdpm2", "kdpm2_ancestral")
"""Families with two evaluations in every step but the last."""

OWN_NAMES = ("ddim_karras", "euler_ancestral_karras")
"""Names of ours that diffusers has no counterpart of."""

COMPARABLE = tuple(name for name in NAMES if name not in OWN_NAMES)
_SEED = 20240
_SHAPE = (2, 4, 6, 5)


@dataclass(frozen=True)
class Run:
    """What one sampler did with the fake network."""

    timesteps: np.ndarray
    noise_scale: float
    latents: np.ndarray


@dataclass(frozen=True)
class Deviation:
    """One line of the table: the largest differences of a whole run.

    Absolute for timesteps and final latents, relative for the factor on the starting noise.
    """

    name: str
    steps: int
    timesteps: float
    noise_scale: float
    latents: float


def diffusers_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """The scheduler object of diffusers that one of our names stands for.

    The config may name any class; as in diffusers' `from_config`, its keys win over the defaults.
    """
    if name not in COMPARABLE:
        raise KeyError(f"diffusers has no {name}")
    family = family_of(name)
    options = dict(_OPTIONS.get(family, {}))
    for levels in _LEVELS:
        if f"{family}_{levels}" in COMPARABLE:
            options[f"use_{levels}_sigmas"] = name.endswith(f"_{levels}")
    with scipy_or_stand_in():
        return CLASSES[family].from_config(dict(config), **options)


def family_of(name: str) -> str:
    """A name without its levels."""
    head, _, levels = name.rpartition("_")
    return head if levels in _LEVELS else name


def evaluations(name: str, steps: int) -> int:
    """How often diffusers' scheduler asks for the network in that many steps."""
    if family_of(name) in TWICE:
        return 2 * steps - 1
    return steps + 1 if name == "pndm" and steps > 1 else steps


class RoundedOnce(TorchFunctionMode):
    """Square roots and linspace of float32 rounded once, as numpy's and ours are, on any processor.

    torch's roots (MKL) are off by one bit: in 5 of the 1000 entries of a table on one machine, in
    190 on another. Its linspace rounds once where it is compiled with fused multiplication, and
    twice elsewhere: one bit in 121 of 1000. What follows magnifies that bit up to a thousandfold.
    """

    _ROOTS = (torch.sqrt, torch.Tensor.sqrt)
    _POWERS = (torch.pow, torch.Tensor.pow, torch.Tensor.__pow__)

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        found = function(*arguments, **(options or {}))
        if function is torch.linspace and found.dtype == torch.float32:
            return _close(_line(*arguments), found)
        is_power = function in self._POWERS and arguments[1] == 0.5
        if (is_power or function in self._ROOTS) and found.dtype == torch.float32:
            return _close(arguments[0].double().sqrt().float(), found)
        return found


def _line(start: float, end: float, count: int) -> torch.Tensor:
    """torch.linspace's formula, its step in float32 and all else in float64."""
    first, last = (torch.tensor(x, dtype=torch.float32) for x in (start, end))
    step = ((last - first) / max(count - 1, 1)).double()
    ahead = torch.arange(count)
    behind = count - 1 - ahead
    from_start, from_end = first.double() + step * ahead, last.double() - step * behind
    return torch.where(ahead < count // 2, from_start, from_end).float()


def _close(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """`wanted`, after a look whether torch's own differs by more than its last bits."""
    torch.testing.assert_close(found, wanted, rtol=2.0**-22, atol=0.0, equal_nan=True)
    return wanted


def timed_scheduler(
    name: str, config: Mapping[str, Any], steps: int, *, exact: bool, custom: Custom = NOTHING
) -> Any:
    """diffusers' scheduler after `set_timesteps`; `exact` rounds once in its tables."""
    with RoundedOnce() if exact else nullcontext():
        scheduler = diffusers_scheduler(name, config)
        with scipy_or_stand_in():
            scheduler.set_timesteps(**(custom or {"num_inference_steps": steps}))
    return scheduler


def fake_network(latents: np.ndarray, timestep: float) -> np.ndarray:
    """A smooth function of latents and time, of the size of a network's output."""
    mixed = np.tanh(0.6 * latents + 0.3 * np.roll(latents, 1, axis=-1) - 0.2)
    return mixed * (0.5 + timestep / 1500.0) + 0.1 * np.sin(timestep / 200.0 + latents)


def starting_noise() -> np.ndarray:
    return np.random.default_rng(_SEED).standard_normal(_SHAPE)


def step_noise(index: int) -> np.ndarray:
    """The fresh noise of a step, the same for both sides."""
    return np.random.default_rng((_SEED, index)).standard_normal(_SHAPE)


def run_diffusers(
    name: str,
    config: Mapping[str, Any],
    steps: int,
    *,
    double: bool,
    eta: float = 0.0,
    begin: int = 0,
    custom: Custom = NOTHING,
) -> Run:
    """A whole run with diffusers' scheduler object.

    Its `step` rounds latents to float32. `double` widens that to float64, and the tables that
    `set_timesteps` made with it, so that what is left to compare is the formulas.
    """
    scheduler = timed_scheduler(name, config, steps, exact=double, custom=custom)
    first = begin * scheduler.order
    # Without it, two equal timesteps at the start make diffusers begin with the second.
    getattr(scheduler, "set_begin_index", lambda _: None)(first)
    # diffusers makes one timestep too many, -1, for some trailing spacings.
    timesteps = scheduler.timesteps[first : evaluations(name, steps)]
    options = {"eta": eta} if name in {"ddim", "tcd"} else {}
    noise_scale = float(scheduler.init_noise_sigma)
    if double:
        _widen(scheduler)
    latents = torch.from_numpy(starting_noise()) * float(scheduler.init_noise_sigma)
    for index, timestep in enumerate(timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        output = torch.from_numpy(fake_network(scaled.numpy(), float(timestep)))
        with _patched(scheduler, index, double=double):
            latents = scheduler.step(output, timestep, latents, **options).prev_sample
    return Run(timesteps.numpy().astype(np.float64), noise_scale, latents.numpy())


def _widen(scheduler: Any) -> None:
    for table in ("sigmas", "alphas_cumprod", "final_alpha_cumprod"):
        if isinstance(getattr(scheduler, table, None), torch.Tensor):
            setattr(scheduler, table, getattr(scheduler, table).double())
    if isinstance(scheduler, KDPM2DiscreteScheduler):  # [σ₀, σ₁, σ₁, …, 0, 0]: halfway in log σ
        before = torch.cat([scheduler.sigmas[:1] * 0.0, scheduler.sigmas[:-2:2]])
        between = (before * scheduler.sigmas[::2]).sqrt()
        twice = between[1:].repeat_interleave(2)
        scheduler.sigmas_interpol = torch.cat([between[:1], twice])
    if isinstance(scheduler, KDPM2AncestralDiscreteScheduler):  # each level twice but the first
        levels = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1:-1:2]])
        after = torch.cat([levels[1:], levels[-1:]])
        up = (after**2 * (levels**2 - after**2) / levels**2).sqrt().nan_to_num()
        down = (after**2 - up**2).sqrt()
        between = (levels * down).sqrt()
        between[-2:] = 0.0
        tables = {"sigmas_up": up, "sigmas_down": down, "sigmas_interpol": between}
        for name, table in tables.items():
            twice = torch.cat([table[:1], table[1:].repeat_interleave(2), table[-1:]])
            setattr(scheduler, name, twice)


class _DoubleTorch:
    """torch, except that float32 means float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def _patched(scheduler: Any, index: int, *, double: bool) -> Iterator[None]:
    """Within it, a scheduler's noise is `step_noise`, and its rounding is as asked for."""
    module = sys.modules[type(scheduler).__module__]
    with ExitStack() as stack:
        stack.enter_context(scipy_or_stand_in())
        if hasattr(module, "randn_tensor"):
            noise = torch.from_numpy(step_noise(index))
            stack.enter_context(patch.object(module, "randn_tensor", lambda *_, **__: noise))
        if double:
            stack.enter_context(patch.object(module, "torch", _DoubleTorch()))
            torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def run_rows(schedule: Schedule) -> Run:
    """A whole run with our rows, in float64 numpy."""
    latents = starting_noise() * schedule.noise_scale
    memories: list[np.ndarray] = []
    for index, step in enumerate(schedule.steps):
        output = fake_network(step.input_scale * latents, step.timestep)
        denoised = step.denoised_x * latents + step.denoised_output * output
        if step.clip is not None:
            denoised = np.clip(denoised, -step.clip, step.clip)
        of_x, of_output, of_denoised = step.memory
        remembered = of_x * latents + of_output * output + of_denoised * denoised
        latents = (
            step.x_x * latents
            + step.x_output * output
            + step.x_denoised * denoised
            + sum(f * m for f, m in zip(step.x_history, memories, strict=False))
            + step.x_noise * step_noise(index)
        )
        memories.insert(0, remembered)
    timesteps = np.array([step.timestep for step in schedule.steps])
    return Run(timesteps, schedule.noise_scale, latents)


def deviation(
    name: str,
    config: Mapping[str, Any],
    steps: int,
    *,
    double: bool = True,
    custom: Custom = NOTHING,
    **options: Any,
) -> Deviation:
    """How far our run is from diffusers', absolutely; `custom` in its words."""
    own = CustomSteps.of(custom.get("timesteps"), custom.get("sigmas"))
    ours = run_rows(make_schedule(name, config, steps, custom=own, **options))
    theirs = run_diffusers(name, config, steps, double=double, custom=custom, **options)
    assert ours.timesteps.shape == theirs.timesteps.shape, (name, steps)
    return Deviation(
        name,
        steps,
        float(np.abs(ours.timesteps - theirs.timesteps).max()),
        abs(ours.noise_scale / theirs.noise_scale - 1.0),
        float(np.abs(ours.latents - theirs.latents).max()),
    )


def deviation_table(
    config: Mapping[str, Any] = SCHEDULER,
    steps: tuple[int, ...] = (1, 4, 20, 50),
    *,
    double: bool = True,
    names: tuple[str, ...] = COMPARABLE,
) -> list[Deviation]:
    """Comparable samplers at several step counts."""
    return [deviation(name, config, n, double=double) for name in names for n in steps]


def format_table(rows: list[Deviation]) -> str:
    head = f"{'scheduler':<18}{'steps':>6}{'timesteps':>12}{'noise scale':>13}{'latents':>12}"
    lines = [
        f"{r.name:<18}{r.steps:>6}{r.timesteps:>12.1e}{r.noise_scale:>13.1e}{r.latents:>12.1e}"
        for r in rows
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    for wide, title in ((True, "diffusers widened to float64"), (False, "diffusers as it is")):
        print(title, format_table(deviation_table(double=wide)), sep="\n", end="\n\n")
