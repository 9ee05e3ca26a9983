"""One evaluation of the UNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel

from ipa.arrays import Floats
from ipa.backend.deep import DeepPart, shallow_layers
from ipa.backend.past import PastFeatures

from .conditioning import Conditioning
from .controls import Added, summed
from .influence import Recorder
from .networks.context import Context
from .networks.shallow import Inputs, begin, kept, last_layers, noted, reused


def predict(
    unet: UNet2DConditionModel,
    x: torch.Tensor,
    timestep: float,
    conditioning: Conditioning,
    scales: Sequence[Sequence[float]],
    shares: dict[int, Floats] | None,
    control_scales: Sequence[Sequence[float]] = (),
    deep: DeepPart | None = None,
    past: PastFeatures | None = None,
) -> torch.Tensor:
    """Scaled latents (N, C, h, w) to predictions (R, N, C, h, w) in float32; `Backend.predict`."""
    recorder = None if shares is None else Recorder(conditioning.pictures, len(x))
    repeated = conditioning.repeated(len(x))
    context = Context(repeated.images, scales, repeated.changes, recorder)
    time = torch.tensor(timestep, dtype=torch.float32, device=x.device)
    count = shallow_layers(deep)
    added = summed(conditioning.controls, control_scales, x, time, count)
    seen = x
    if conditioning.channels is not None:
        seen = torch.cat([x, conditioning.channels.to(x.dtype)], dim=1)
    rows = seen.repeat(conditioning.rows, 1, 1, 1)
    if deep is None or count is None:
        with noted(unet, deep), kept(unet, past):
            output = _whole(unet, rows, time, repeated, context, added)
    else:
        output = _shallow(unet, rows, time, repeated, context, added, deep)
    if shares is not None and recorder is not None:
        shares.update(recorder.read())
    return output.float().unflatten(0, (conditioning.rows, -1))


def _whole(
    unet: UNet2DConditionModel,
    rows: torch.Tensor,
    time: torch.Tensor,
    repeated: Conditioning,
    context: Context,
    added: Added,
) -> torch.Tensor:
    """All of the UNet."""
    residuals = added.residuals
    return unet(
        rows,
        time,
        repeated.text,
        timestep_cond=repeated.guidance,
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


def _shallow(
    unet: UNet2DConditionModel,
    rows: torch.Tensor,
    time: torch.Tensor,
    repeated: Conditioning,
    context: Context,
    added: Added,
    deep: DeepPart,
) -> torch.Tensor:
    """The UNet's layers above the deep part."""
    inputs = Inputs.of(
        unet,
        rows,
        time,
        repeated.added,
        guidance=repeated.guidance,
        encoder_hidden_states=repeated.text,
        cross_attention_kwargs={"ip_hidden_states": context},
    )
    results = begin(unet, unet.conv_in(rows), inputs, deep.shallow, added.features)
    if added.residuals:
        pairs = zip(results, added.residuals, strict=True)
        results = [result + residual for result, residual in pairs]
    return reused(unet, results, inputs, deep)


def forecast(
    unet: UNet2DConditionModel, x: torch.Tensor, conditioning: Conditioning, past: PastFeatures
) -> torch.Tensor:
    """The same of a feature that is not computed: a sum of earlier ones, in float32."""
    terms = past.terms(conditioning.rows * len(x))
    first, *others = (weight * feature.float() for weight, feature in terms)
    output = last_layers(unet, sum(others, first).to(x.dtype))
    return output.float().unflatten(0, (conditioning.rows, -1))
