"""One evaluation of the UNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel

from ipa.arrays import Floats

from .conditioning import Conditioning
from .controls import summed
from .influence import Recorder
from .networks.context import Context


def predict(
    unet: UNet2DConditionModel,
    x: torch.Tensor,
    timestep: float,
    conditioning: Conditioning,
    scales: Sequence[Sequence[float]],
    shares: list[Floats] | None,
    control_scales: Sequence[Sequence[float]] = (),
) -> torch.Tensor:
    """Scaled latents (N, C, h, w) to predictions (R, N, C, h, w) in float32; `Backend.predict`."""
    recorder = None if shares is None else Recorder(conditioning.pictures, len(x))
    repeated = conditioning.repeated(len(x))
    context = Context(repeated.images, scales, repeated.changes, recorder)
    time = torch.tensor(timestep, dtype=torch.float32, device=x.device)
    added = summed(conditioning.controls, control_scales, x, time)
    residuals = added.residuals
    seen = x
    if conditioning.channels is not None:
        seen = torch.cat([x, conditioning.channels.to(x.dtype)], dim=1)
    rows = seen.repeat(conditioning.rows, 1, 1, 1)
    output = unet(
        rows,
        time,
        repeated.text,
        timestep_cond=conditioning.guidance,
        added_cond_kwargs=repeated.added,
        cross_attention_kwargs={"ip_hidden_states": context},
        down_block_additional_residuals=residuals[:-1] or None,
        mid_block_additional_residual=residuals[-1] if residuals else None,
        # The middle's is taken only if it has as many rows; diffusers empties the list.
        down_intrablock_additional_residuals=[
            feature.expand(len(rows), -1, -1, -1) for feature in added.features
        ]
        or None,
        return_dict=False,
    )[0]
    if shares is not None and recorder is not None:
        shares += recorder.read()
    return output.float().unflatten(0, (conditioning.rows, -1))
