"""The ControlNets and T2I-Adapters beside a model, and what they add to its UNet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel

from ipa.backend.protocol import ControlBranch
from ipa.backend.text import Sizes, TextStates
from ipa.model.control_files import ControlFiles, T2IAdapterFiles
from ipa.watching import one_part

from .networks.controlnet import embed, embedded, load_controlnet
from .networks.shallow import Inputs, first_residuals
from .networks.t2i_adapter import load_t2i_adapter
from .report import network_bytes
from .text import added_conditioning

Residuals = list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class ConditionedControl:
    """A ControlNet for one generation: its picture, embedded (1, C, h, w), and the text (R, T, D).

    `added` is diffusers' added_cond_kwargs. `conditional_only`: the unconditional row gets nothing.
    """

    net: ControlNetModel
    picture: torch.Tensor
    text: torch.Tensor
    added: Mapping[str, torch.Tensor]
    conditional_only: bool

    def conditional(self) -> ConditionedControl:
        """The same for the conditional row alone."""
        added = {name: rows[-1:] for name, rows in self.added.items()}
        return replace(self, text=self.text[-1:], added=added, conditional_only=False)

    def residuals(
        self, x: torch.Tensor, timestep: torch.Tensor, weights: Sequence[float]
    ) -> Residuals:
        """The residuals for scaled latents (N, C, h, w), for all rows, as many as weights."""
        count, rows = len(x), len(self.text)
        # What other channels a UNet takes (those of inpainting) come after the latents.
        latents = x[:, : self.net.config.in_channels].repeat(rows, 1, 1, 1)
        text = self.text.repeat_interleave(count, dim=0)
        added = {n: a.repeat_interleave(count, dim=0) for n, a in self.added.items()}
        if len(weights) <= len(self.net.controlnet_down_blocks):
            inputs = Inputs.of(self.net, latents, timestep, added, encoder_hidden_states=text)
            results = first_residuals(self.net, latents, self.picture, inputs, len(weights))
        else:
            with embedded(self.net, self.picture):
                down, middle = self.net(
                    latents,
                    timestep,
                    text,
                    controlnet_cond=self.picture,
                    added_cond_kwargs=added,
                    return_dict=False,
                )
            results = [*down, middle]
        pairs = zip(results, weights, strict=True)
        found = [r * weight if weight else torch.zeros_like(r) for r, weight in pairs]
        if not self.conditional_only:
            return found
        return [torch.cat([torch.zeros_like(r), r]) for r in found]


@dataclass(frozen=True, slots=True)
class ConditionedAdapter:
    """A T2I-Adapter for one generation: its features, the same for all rows and steps."""

    features: tuple[torch.Tensor, ...]

    def conditional(self) -> ConditionedAdapter:
        """The same for the conditional row alone."""
        return self

    def weighted(self, weights: Sequence[float]) -> Residuals:
        """The features times their weights."""
        pairs = zip(self.features, weights, strict=True)
        return [f * weight if weight else torch.zeros_like(f) for f, weight in pairs]


@dataclass(frozen=True, slots=True)
class Added:
    """The residuals of controls in one evaluation: for the UNet's results, and on its way down."""

    residuals: Residuals
    features: Residuals


@dataclass
class Controls:
    """The loaded controls by name."""

    unet: UNet2DConditionModel
    _loaded: dict[str, ControlNetModel | T2IAdapter] = field(default_factory=dict)

    def load(self, name: str, files: ControlFiles) -> int:
        """See `ControlNetStore.load`."""
        net: ControlNetModel | T2IAdapter
        with one_part():
            if isinstance(files, T2IAdapterFiles):
                net = load_t2i_adapter(files, self.unet.dtype).to(self.unet.device)
            else:
                net = load_controlnet(files, self.unet.dtype).to(self.unet.device)
        self._loaded[name] = net
        return sum(tensor.nbytes for tensor in net.parameters())

    def unload(self, name: str) -> None:
        """See `ControlNetStore.unload`."""
        del self._loaded[name]

    def frozen(self) -> Controls:
        """See `Backend.frozen`."""
        return replace(self, _loaded=dict(self._loaded))

    def sizes(self) -> dict[str, int]:
        """The bytes of each control, by the names of `ipa.backend.residency`."""
        return {f"controlnet {name}": network_bytes(net) for name, net in self}

    def __iter__(self) -> Iterator[tuple[str, ControlNetModel | T2IAdapter]]:
        return iter(self._loaded.items())

    def condition(
        self,
        controls: Sequence[ControlBranch],
        text: Sequence[TextStates],
        sizes: Sequence[Sizes],
    ) -> tuple[ConditionedControl | ConditionedAdapter, ...]:
        """Compute what does not change from step to step."""
        return tuple(self._conditioned(control, text, sizes) for control in controls)

    def _conditioned(
        self, control: ControlBranch, text: Sequence[TextStates], sizes: Sequence[Sizes]
    ) -> ConditionedControl | ConditionedAdapter:
        net = self._loaded[control.name]
        if isinstance(net, T2IAdapter):
            return ConditionedAdapter(
                tuple(net(torch.from_numpy(control.pixels).to(text[0].states)))
            )
        alone = control.conditional_only and len(text) > 1
        if alone:
            text, sizes = text[-1:], sizes[-1:]
        states = torch.cat([row.states for row in text])
        pixels = torch.from_numpy(control.pixels).to(states)
        added = added_conditioning(text, sizes)
        return ConditionedControl(net, embed(net, pixels), states, added, alone)


def summed(
    controls: Sequence[ConditionedControl | ConditionedAdapter],
    scales: Sequence[Sequence[float]],
    x: torch.Tensor,
    timestep: torch.Tensor,
    count: int | None = None,
) -> Added:
    """The sum of all controls' residuals; empty if none has a weight, and then none is run.

    With a count, of the first results of ControlNets alone.
    """
    residuals: Residuals = []
    features: Residuals = []
    for control, weights in zip(controls, scales, strict=True):
        if isinstance(control, ConditionedAdapter):
            features = _sums(features, control.weighted(weights)) if any(weights) else features
        elif any(weights[:count]):
            residuals = _sums(residuals, control.residuals(x, timestep, weights[:count]))
    return Added(residuals, features)


def _sums(total: Residuals, more: Residuals) -> Residuals:
    """Sums of two lists, item by item; what only the longer one has stays."""
    pairs = zip_longest(total, more)
    return [(b if a is None else a) if a is None or b is None else a + b for a, b in pairs]
