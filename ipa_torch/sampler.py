"""One row of a schedule, applied: see `ipa.contract.schedule` for the formulas."""

from __future__ import annotations

import torch

from ipa.contract.schedule import Step


def guide(output: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance: (R, …), unconditional first, to (…); R = 1 passes through."""
    if output.shape[0] == 1:
        return output[0]
    unconditional, conditional = output
    return unconditional + guidance_scale * (conditional - unconditional)


def advance(
    step: Step,
    x: torch.Tensor,
    output: torch.Tensor,
    previous: torch.Tensor | None,
    noise: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next latents and the denoised estimate; `previous` is the estimate of the step before."""
    denoised = step.denoised_x * x + step.denoised_output * output
    if step.clip is not None:
        denoised = denoised.clamp(-step.clip, step.clip)
    following = step.x_x * x + step.x_output * output + step.x_denoised * denoised
    if previous is not None and step.x_previous != 0.0:
        following = following + step.x_previous * previous
    if noise is not None and step.x_noise != 0.0:
        following = following + step.x_noise * noise
    return following, denoised
