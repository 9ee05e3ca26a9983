"""One row of a schedule, applied: see `ipa.contract.schedule` for the formulas."""

from __future__ import annotations

import mlx.core as mx

from ipa.contract.schedule import Step


def guide(output: mx.array, guidance_scale: float) -> mx.array:
    """Classifier-free guidance: (R, …), unconditional first, to (…); R = 1 passes through."""
    if output.shape[0] == 1:
        return output[0]
    unconditional, conditional = output
    return unconditional + guidance_scale * (conditional - unconditional)


def advance(
    step: Step, x: mx.array, output: mx.array, previous: mx.array | None, noise: mx.array | None
) -> tuple[mx.array, mx.array]:
    """The next latents and the denoised estimate; `previous` is the estimate of the step before."""
    denoised = step.denoised_x * x + step.denoised_output * output
    if step.clip is not None:
        denoised = mx.clip(denoised, -step.clip, step.clip)
    following = step.x_x * x + step.x_output * output + step.x_denoised * denoised
    if previous is not None and step.x_previous != 0.0:
        following = following + step.x_previous * previous
    if noise is not None and step.x_noise != 0.0:
        following = following + step.x_noise * noise
    return following, denoised
