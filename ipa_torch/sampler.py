"""One row of a schedule, applied: see `ipa.backend.schedule` for the formulas."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ipa.backend.schedule import ESTIMATE, Step


def guide(
    output: torch.Tensor, guidance_scale: float, guidance_rescale: float = 0.0
) -> torch.Tensor:
    """Classifier-free guidance: (R, …), unconditional first, to (…); R = 1 passes through.

    `guidance_rescale` mixes in the guided output at the conditional one's standard deviation, by
    picture (arXiv 2305.08891, equations 15 and 16).
    """
    if output.shape[0] == 1:
        return output[0]
    unconditional, conditional = output
    guided = unconditional + guidance_scale * (conditional - unconditional)
    if guidance_rescale == 0.0:
        return guided
    rescaled = guided * (_deviation(conditional) / _deviation(guided))
    return guidance_rescale * rescaled + (1.0 - guidance_rescale) * guided


def advance(
    step: Step,
    x: torch.Tensor,
    output: torch.Tensor,
    memories: Sequence[torch.Tensor],
    noise: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Apply a row: the next latents, the denoised estimate, and its memory for later rows.

    `memories` are those of the rows before, the latest first.
    """
    denoised = step.denoised_x * x + step.denoised_output * output
    if step.clip is not None:
        denoised = denoised.clamp(-step.clip, step.clip)
    following = step.x_x * x + step.x_output * output + step.x_denoised * denoised
    for factor, remembered in zip(step.x_history, memories, strict=False):
        if factor != 0.0:
            following = following + factor * remembered
    if noise is not None and step.x_noise != 0.0:
        following = following + step.x_noise * noise
    memory = denoised
    if step.memory != ESTIMATE:
        of_x, of_output, of_denoised = step.memory
        memory = of_x * x + of_output * output + of_denoised * denoised
    return following, denoised, memory


def _deviation(array: torch.Tensor) -> torch.Tensor:
    """The standard deviation of each picture of (N, …), over n − 1."""
    return array.std(dim=tuple(range(1, array.ndim)), keepdim=True)
