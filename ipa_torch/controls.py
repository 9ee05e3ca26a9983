"""The ControlNets beside a model, and what they add to an evaluation of its UNet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from ipa.contract.controlnet import ControlBranch, ControlNetFiles
from ipa.contract.text import Sizes, TextStates

from .controlnet import load_controlnet
from .text import added_conditioning

Residuals = list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class ConditionedControl:
    """A control for one generation: its picture (1, 3, H, W), and the text (R, T, D).

    `added` is diffusers' added_cond_kwargs. `conditional_only`: the unconditional row gets nothing.
    """

    net: ControlNetModel
    picture: torch.Tensor
    text: torch.Tensor
    added: Mapping[str, torch.Tensor]
    conditional_only: bool

    def residuals(
        self, x: torch.Tensor, timestep: torch.Tensor, weights: Sequence[float]
    ) -> Residuals:
        """Of scaled latents (N, C, h, w), for all rows."""
        count, rows = len(x), len(self.text)
        # What other channels a UNet takes (those of inpainting) come after the latents.
        latents = x[:, : self.net.config.in_channels].repeat(rows, 1, 1, 1)
        down, middle = self.net(
            latents,
            timestep,
            self.text.repeat_interleave(count, dim=0),
            controlnet_cond=self.picture.expand(len(latents), -1, -1, -1),
            added_cond_kwargs={n: a.repeat_interleave(count, dim=0) for n, a in self.added.items()},
            return_dict=False,
        )
        pairs = zip((*down, middle), weights, strict=True)
        found = [r * weight if weight else torch.zeros_like(r) for r, weight in pairs]
        if not self.conditional_only:
            return found
        return [torch.cat([torch.zeros_like(r), r]) for r in found]


@dataclass
class ControlNets:
    """By name."""

    unet: UNet2DConditionModel
    _loaded: dict[str, ControlNetModel] = field(default_factory=dict)

    def load(self, name: str, files: ControlNetFiles) -> int:
        """See `ControlNetStore.load`."""
        net = load_controlnet(files, self.unet.dtype).to(self.unet.device)
        self._loaded[name] = net
        return sum(tensor.nbytes for tensor in net.parameters())

    def unload(self, name: str) -> None:
        """See `ControlNetStore.unload`."""
        del self._loaded[name]

    def __iter__(self) -> Iterator[tuple[str, ControlNetModel]]:
        return iter(self._loaded.items())

    def condition(
        self,
        controls: Sequence[ControlBranch],
        text: Sequence[TextStates],
        sizes: Sequence[Sizes],
    ) -> tuple[ConditionedControl, ...]:
        """What does not change from step to step."""
        return tuple(self._conditioned(control, text, sizes) for control in controls)

    def _conditioned(
        self, control: ControlBranch, text: Sequence[TextStates], sizes: Sequence[Sizes]
    ) -> ConditionedControl:
        alone = control.conditional_only and len(text) > 1
        if alone:
            text, sizes = text[-1:], sizes[-1:]
        states = torch.cat([row.states for row in text])
        pixels = torch.from_numpy(control.pixels).to(states)
        net, added = self._loaded[control.name], added_conditioning(text, sizes)
        return ConditionedControl(net, pixels, states, added, alone)


def summed(
    controls: Sequence[ConditionedControl],
    scales: Sequence[Sequence[float]],
    x: torch.Tensor,
    timestep: torch.Tensor,
) -> Residuals:
    """What all controls add together; empty if none has a weight, and then none is run."""
    total: Residuals = []
    for control, weights in zip(controls, scales, strict=True):
        if any(weights):
            own = control.residuals(x, timestep, weights)
            total = [a + b for a, b in zip(total, own, strict=True)] if total else own
    return total
