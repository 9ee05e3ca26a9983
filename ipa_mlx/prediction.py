"""One evaluation of the UNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx

from ipa.arrays import Floats
from ipa.backend.deep import DeepPart, shallow_layers
from ipa.backend.past import PastFeatures

from .conditioning import Conditioning
from .controls import Added, summed
from .influence import Recorder
from .networks.unet import UNet
from .networks.watching import is_watched

Evaluation: TypeAlias = Callable[
    [mx.array, float, Conditioning, Sequence[Sequence[float]], Added, DeepPart | None], mx.array
]
"""`CompiledUNet.__call__`, with the weights as they are."""


@dataclass(frozen=True, slots=True)
class Network:
    """A UNet, and the compiled one that is evaluated in its place where nobody looks inside."""

    unet: UNet
    compiled: Evaluation | None = None


def predict(
    network: Network,
    x: mx.array,
    timestep: float,
    conditioning: Conditioning,
    scales: Sequence[Sequence[float]],
    shares: dict[int, Floats] | None,
    control_scales: Sequence[Sequence[float]] = (),
    deep: DeepPart | None = None,
    past: PastFeatures | None = None,
) -> mx.array:
    """Scaled latents (N, h, w, C) to predictions (R, N, h, w, C) in float32; `Backend.predict`."""
    unet, seen = network.unet, x
    if conditioning.channels is not None:
        seen = mx.concatenate([x, conditioning.channels.astype(x.dtype)], axis=-1)
    count = shallow_layers(deep)
    added = summed(conditioning.controls, control_scales, x, timestep, count)
    recorder = None if shares is None else Recorder(conditioning.pictures)
    is_bare = recorder is None and past is None
    if network.compiled is not None and is_bare and not is_watched(unet):
        output = network.compiled(seen, timestep, conditioning, scales, added, deep)
    else:
        rows = mx.concatenate([seen] * conditioning.rows)
        context = conditioning.context(scales, recorder)
        output = unet(rows, timestep, context, added.residuals, added.features, deep, past)
    output = output.astype(mx.float32).reshape(conditioning.rows, *x.shape)
    if shares is not None and recorder is not None:
        shares.update(recorder.read(output, len(x)))
    return output


def forecast(unet: UNet, x: mx.array, conditioning: Conditioning, past: PastFeatures) -> mx.array:
    """The same of a feature that is not computed: a sum of earlier ones, in float32."""
    terms = past.terms(conditioning.rows * len(x))
    first, *others = (weight * feature.astype(mx.float32) for weight, feature in terms)
    output = unet.finish(sum(others, first).astype(x.dtype))
    return output.astype(mx.float32).reshape(conditioning.rows, *x.shape)
