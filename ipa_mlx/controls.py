"""The ControlNets and T2I-Adapters beside a model, and what they add to its UNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TypeAlias

import mlx.core as mx
import numpy as np

from ipa.backend.protocol import ControlBranch
from ipa.backend.text import Sizes, TextStates
from ipa.model.control_files import ControlFiles, T2IAdapterFiles
from ipa.model.quantization import Quantization

from .networks.context import Context
from .networks.controlnet import ControlNet
from .networks.t2i_adapter import T2IAdapter
from .networks.unet_down import added_conditioning
from .residency import Resident, Source, read_all, resident

Residuals = list[mx.array | None]


@dataclass(frozen=True, slots=True)
class ConditionedControl:
    """A ControlNet for one generation: its picture embedded, its text keys and values.

    `conditional_only`: the unconditional row gets nothing.
    """

    net: ControlNet
    picture: mx.array
    context: Context
    conditional_only: bool

    def conditional(self) -> ConditionedControl:
        """The same for the conditional row alone."""
        context, added = self.context, self.context.added
        alone = replace(
            context,
            rows=1,
            text=tuple(pair.conditional() for pair in context.text),
            added=None if added is None else added[-1:],
        )
        return replace(self, context=alone, conditional_only=False)

    def residuals(self, x: mx.array, timestep: float, weights: Sequence[float]) -> Residuals:
        """The residuals for scaled latents (N, h, w, C), for all rows."""
        rows = mx.concatenate([x] * self.context.rows)
        # What other channels a UNet takes (those of inpainting) come after the latents.
        rows = rows[..., : self.net.spec.in_channels]
        found = self.net(rows, timestep, self.context, self.picture, weights)
        return [_below_zeros(r) for r in found] if self.conditional_only else found


@dataclass(frozen=True, slots=True)
class ConditionedAdapter:
    """A T2I-Adapter for one generation: its features, the same for all rows and steps."""

    features: tuple[mx.array, ...]

    def conditional(self) -> ConditionedAdapter:
        """The same for the conditional row alone."""
        return self

    def weighted(self, weights: Sequence[float]) -> Residuals:
        """The features times their weights."""
        pairs = zip(self.features, weights, strict=True)
        return [f * weight if weight else None for f, weight in pairs]


@dataclass(frozen=True, slots=True)
class Added:
    """The residuals of controls in one evaluation: for the UNet's results, and on its way down."""

    residuals: Residuals
    features: Residuals


Control: TypeAlias = Resident[ControlNet] | Resident[T2IAdapter]


@dataclass
class Controls:
    """The loaded controls by name; `lazy` reads their weights when they are first used."""

    precision: mx.Dtype
    quantization: Quantization | None
    lazy: bool = False
    _loaded: dict[str, tuple[str, Control]] = field(default_factory=dict)

    def load(self, name: str, files: ControlFiles) -> int:
        """See `ControlNetStore.load`."""
        found = _control(files, self.precision, self.quantization)
        if not self.lazy:
            read_all([found])
        kind = "t2i_adapter" if isinstance(files, T2IAdapterFiles) else "controlnet"
        self._loaded[name] = kind, found
        return found.measured.nbytes

    def unload(self, name: str) -> None:
        """See `ControlNetStore.unload`."""
        del self._loaded[name]

    def frozen(self) -> Controls:
        """See `Backend.frozen`."""
        return replace(self, _loaded=dict(self._loaded))

    def residents(self) -> Iterator[tuple[str, str, Control]]:
        """Kind ("controlnet", "t2i_adapter"), name and network of each, in memory or not."""
        for name, (kind, network) in self._loaded.items():
            yield kind, name, network

    def condition(
        self,
        controls: Sequence[ControlBranch],
        text: Sequence[TextStates],
        sizes: Sequence[Sizes],
    ) -> tuple[ConditionedControl | ConditionedAdapter, ...]:
        """Compute what does not change from step to step, evaluated."""
        return tuple(self._conditioned(control, text, sizes) for control in controls)

    def _conditioned(
        self, control: ControlBranch, text: Sequence[TextStates], sizes: Sequence[Sizes]
    ) -> ConditionedControl | ConditionedAdapter:
        net, alone = self._loaded[control.name][1].get(), control.conditional_only and len(text) > 1
        channels_last = np.ascontiguousarray(control.pixels.transpose(0, 2, 3, 1))
        pixels = mx.array(channels_last).astype(self.precision)
        if isinstance(net, T2IAdapter):
            features = net(pixels)
            mx.eval(*features)
            return ConditionedAdapter(features)
        if alone:
            text, sizes = text[-1:], sizes[-1:]
        states = mx.concatenate([row.states for row in text])
        pairs = tuple(attention.keys_values(states) for attention in net.cross_attentions)
        added = added_conditioning(net, text, sizes)
        picture = net.embed(pixels)
        mx.eval(picture, added, *(array for pair in pairs for array in pair.arrays()))
        context = Context(rows=len(text), text=pairs, images=(), scales=(), added=added)
        return ConditionedControl(net, picture, context, alone)


def _control(files: ControlFiles, dtype: mx.Dtype, how: Quantization | None) -> Control:
    """A control of files, no weight read. Nothing in a T2I-Adapter is ever quantised.

    Raises:
        CheckpointError: Weights are missing, left over or misshapen.
        RequestError: It is quantised already, in another way.
    """
    from ipa_convert import read_control

    converted, where = read_control(files), str(files.path)
    if isinstance(files, T2IAdapterFiles):
        adapter = files.spec
        return resident(Source.of(converted, dtype, where), lambda: T2IAdapter(adapter))
    spec = files.spec
    return resident(Source.of(converted, dtype, where, how), lambda: ControlNet(spec))


def summed(
    controls: Sequence[ConditionedControl | ConditionedAdapter],
    scales: Sequence[Sequence[float]],
    x: mx.array,
    timestep: float,
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
    return [_sum(a, b) for a, b in zip_longest(total, more)]


def _sum(first: mx.array | None, second: mx.array | None) -> mx.array | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _below_zeros(result: mx.array | None) -> mx.array | None:
    return None if result is None else mx.concatenate([mx.zeros_like(result), result])
