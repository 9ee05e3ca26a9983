"""Steps that a caller chooses, and those that a start picture's strength leaves."""

from __future__ import annotations

from ipa.errors import RequestError

from .config import SamplerConfig
from .families import FAMILIES
from .noise_levels import noise_levels, signal_levels

_ABOVE = 1.01  # published lists round the largest level: 14.615 of 14.6146


def check_custom(name: str, sampler: SamplerConfig) -> None:
    """Raise RequestError unless the sampler of that name takes the steps in its config."""
    if sampler.custom.timesteps is not None:
        _check_taken(name, sampler, "timesteps")
        _check_timesteps(name, sampler, sampler.custom.timesteps)
    if sampler.custom.sigmas is not None:
        _check_taken(name, sampler, "sigmas")
        _check_sigmas(sampler, sampler.custom.sigmas)


def distillation_warnings(sampler: SamplerConfig, trained: list[int]) -> list[str]:
    """diffusers' warning: a model was distilled on other timesteps than a call names."""
    given = sampler.custom.timesteps or ()
    others = [f"{t:g}" for t in given if t not in trained]
    if not others:
        return []
    return [
        f"timesteps {', '.join(others)} are not among the {len(trained)} that models for "
        f"{sampler.family} are distilled on ({trained[0]}, {trained[1]}, … {trained[-1]}): the "
        "picture may suffer."
    ]


def _check_taken(name: str, sampler: SamplerConfig, what: str) -> None:
    takers = [family for family, kind in FAMILIES.items() if what in kind.custom]
    others = [family for family in FAMILIES if family not in takers]
    if sampler.family not in takers:
        raise RequestError(
            f"{name} takes no {what} of a call, as in diffusers",
            found=f"{what}=",
            remedy=f"for {', '.join(takers)}; not for {', '.join(others)}",
        )
    if what == "timesteps" and sampler.levels != "training":
        raise RequestError(
            f"{name} has noise levels of its own, which timesteps would contradict",
            found="timesteps=",
            remedy=f'scheduler="{sampler.family}"',
        )


def _check_timesteps(name: str, sampler: SamplerConfig, timesteps: tuple[float, ...]) -> None:
    if timesteps[0] > sampler.train_steps - 1:
        raise RequestError(
            "a timestep is beyond those of the training",
            found=f"{timesteps[0]:g}",
            remedy=f"from {sampler.train_steps - 1} to 0",
        )
    broken = [t for t in timesteps if not t.is_integer()]
    if broken and not sampler.kind.fractions:
        raise RequestError(
            f"{name} takes whole timesteps alone",
            found=f"{broken[0]:g}",
            remedy="round them; euler and heun take fractions",
        )


def _check_sigmas(sampler: SamplerConfig, sigmas: tuple[float, ...]) -> None:
    largest = float(noise_levels(signal_levels(sampler, finite=True))[-1])
    if sigmas[0] > largest * _ABOVE:
        raise RequestError(
            "a noise level is beyond those of the training",
            found=f"sigmas[0] = {sigmas[0]:g}",
            remedy=f"the largest of this model is {largest:.4f}",
        )


def left_out(num_inference_steps: int, strength: float | None) -> int:
    """How many steps strength leaves out: all but the last int(n · strength) (get_timesteps).

    None, and 1, leave out none.

    Raises:
        RequestError: No step is left.
    """
    if strength is None:
        return 0
    taken = min(int(num_inference_steps * strength), num_inference_steps)
    if taken < 1:
        raise RequestError(
            "strength leaves no step to run",
            found=f"{strength:g} of num_inference_steps={num_inference_steps}",
            remedy=f"a strength of {1 / num_inference_steps:.2g} or more, or more steps",
        )
    return num_inference_steps - taken
