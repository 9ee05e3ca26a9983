"""The ControlNets beside a model, and what they add to an evaluation of its UNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ipa.contract.controlnet import ControlBranch, ControlNetFiles
from ipa.contract.quantization import Quantization
from ipa.contract.text import Sizes, TextStates

from .conditioning import Conditioning, Context
from .controlnet import ControlNet, load_controlnet
from .text import added_conditioning

Residuals = list[mx.array | None]


@dataclass(frozen=True, slots=True)
class ConditionedControl:
    """A control for one generation: its picture embedded, the text as its ControlNet attends to it.

    `conditional_only`: the unconditional row gets nothing.
    """

    net: ControlNet
    picture: mx.array
    conditioning: Conditioning
    conditional_only: bool

    def residuals(self, x: mx.array, timestep: float, weights: Sequence[float]) -> Residuals:
        """Of scaled latents (N, h, w, C), for all rows."""
        rows = mx.concatenate([x] * self.conditioning.rows)
        # What other channels a UNet takes (those of inpainting) come after the latents.
        rows = rows[..., : self.net.spec.in_channels]
        context = Context(self.conditioning, ())
        found = self.net(rows, timestep, context, self.picture, weights)
        return [_below_zeros(r) for r in found] if self.conditional_only else found


@dataclass
class ControlNets:
    """By name."""

    precision: mx.Dtype
    quantization: Quantization | None
    _loaded: dict[str, ControlNet] = field(default_factory=dict)

    def load(self, name: str, files: ControlNetFiles) -> int:
        """See `ControlNetStore.load`."""
        net = load_controlnet(files, self.precision, self.quantization)
        self._loaded[name] = net
        return sum(array.nbytes for _, array in tree_flatten(net.parameters()))

    def unload(self, name: str) -> None:
        """See `ControlNetStore.unload`."""
        del self._loaded[name]

    def __iter__(self) -> Iterator[tuple[str, ControlNet]]:
        return iter(self._loaded.items())

    def condition(
        self,
        controls: Sequence[ControlBranch],
        text: Sequence[TextStates],
        sizes: Sequence[Sizes],
    ) -> tuple[ConditionedControl, ...]:
        """What does not change from step to step, evaluated."""
        return tuple(self._conditioned(control, text, sizes) for control in controls)

    def _conditioned(
        self, control: ControlBranch, text: Sequence[TextStates], sizes: Sequence[Sizes]
    ) -> ConditionedControl:
        net, alone = self._loaded[control.name], control.conditional_only and len(text) > 1
        if alone:
            text, sizes = text[-1:], sizes[-1:]
        states = mx.concatenate([row.states for row in text])
        conditioning = Conditioning(
            rows=len(text),
            text=tuple(attention.keys_values(states) for attention in net.cross_attentions),
            images=(),
            added=added_conditioning(net, text, sizes),
        )
        pixels = np.ascontiguousarray(control.pixels.transpose(0, 2, 3, 1))
        picture = net.embed(mx.array(pixels).astype(self.precision))
        mx.eval(picture, *conditioning.arrays())
        return ConditionedControl(net, picture, conditioning, alone)


def summed(
    controls: Sequence[ConditionedControl],
    scales: Sequence[Sequence[float]],
    x: mx.array,
    timestep: float,
) -> Residuals:
    """What all controls add together; empty if none has a weight, and then none is run."""
    total: Residuals = []
    for control, weights in zip(controls, scales, strict=True):
        if any(weights):
            own = control.residuals(x, timestep, weights)
            total = [_sum(a, b) for a, b in zip(total, own, strict=True)] if total else own
    return total


def _sum(first: mx.array | None, second: mx.array | None) -> mx.array | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _below_zeros(result: mx.array | None) -> mx.array | None:
    return None if result is None else mx.concatenate([mx.zeros_like(result), result])
