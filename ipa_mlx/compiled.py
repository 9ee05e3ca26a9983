"""The UNet compiled: its graph is built once for all steps of all runs of one form.

`mx.compile` calls a function once for every form of its arguments and keeps the graph: whatever
changes from step to step or from run to run is an argument, and the weights are part of it. The
form is: sizes and precisions, which image prompts act at which sites, their masks and modes, what
controls add, which deep part is reused, and the way of convolutions. λ, timestep, seed, text and
pictures are values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import mlx.core as mx

from ipa.backend.deep import DeepPart
from ipa.request.scales import EmbedsScaling

from .conditioning import Conditioning
from .controls import Added
from .networks.context import Context, KeyValue, Weight
from .networks.low_rank import LowRank, SiteChanges
from .networks.unet import UNet
from .networks.unfolding import route

_MOST_TRACES = 32  # after which all are dropped: graphs of forms that nobody asks for again

Tree: TypeAlias = Any
"""Lists of arrays, and of numbers and None, which are part of the form."""


class CompiledUNet:
    """A UNet that is called with arrays alone.

    It holds the weights of the network that it was called with last, and lets go of them as a guest
    of that network (`residency.Guest`). The changes of LoRAs replace layers, so they are part of
    the weights: a caller tells by a number that they are others now. Watched and recorded
    evaluations are not for it: they read arrays.
    """

    def __init__(
        self, compiler: Callable[[Callable[..., Any]], Callable[..., Any]] = mx.compile
    ) -> None:
        self._compiler = compiler
        self._unet: UNet | None = None
        self._call: Callable[..., Any] | None = None
        self._weights = self._traces = 0

    def __deepcopy__(self, memo: object) -> CompiledUNet:
        """One with nothing traced yet: a copied network is another."""
        return CompiledUNet(self._compiler)

    def enter(self, network: UNet) -> None:
        """See `residency.Guest`."""

    def leave(self, network: UNet) -> None:
        """See `residency.Guest`: let go of its weights."""
        self._unet = self._call = None

    def _of(self, unet: UNet, weights: int) -> Callable[..., Any]:
        """The compiled call of a network, with what it traced if that is of the same weights."""
        is_same = unet is self._unet and weights == self._weights
        if self._call is None or not is_same or self._traces >= _MOST_TRACES:
            self._unet, self._weights, self._traces = unet, weights, 0
            self._call = self._compiler(self._traced)
        return self._call

    def __call__(
        self,
        unet: UNet,
        x: mx.array,
        timestep: float,
        conditioning: Conditioning,
        scales: Sequence[Sequence[float]],
        added: Added,
        deep: DeepPart | None,
        weights: int = 0,
    ) -> mx.array:
        """Latents (N, h, w, C) to predictions (R · N, h, w, C).

        Args:
            unet: The network.
            x: Scaled, with the further channels of an inpainting model.
            timestep: In [0, 1000).
            conditioning: Its controls are in `added` already.
            scales: λ by image prompt and site.
            added: What controls add.
            deep: See `Backend.predict`.
            weights: A number that is another where the UNet's weights are others.
        """
        output, feature = self._of(unet, weights)(
            x,
            unet.time_embedding.time_proj(timestep),
            _flat(conditioning),
            *_prompts(conditioning, scales),
            [added.residuals, added.features],
            None if deep is None else [deep.branch, deep.feature],
            route(),
        )
        if deep is not None and deep.feature is None:
            deep.feature = feature
        return output

    def _traced(
        self,
        x: mx.array,
        wave: mx.array,
        conditioning: Tree,
        prompts: Tree,
        factors: mx.array | None,
        added: Tree,
        deep: Tree,
        _: str,
    ) -> list[mx.array | None]:
        if self._unet is None:
            raise RuntimeError("a graph outlived its network")
        self._traces += 1
        context = _context(conditioning, prompts, factors)
        part = None
        if deep is not None:
            part = DeepPart(deep[0])
            part.feature = deep[1]
        rows = mx.concatenate([x] * context.rows)
        output = self._unet(rows, wave, context, *added, part)
        return [output, None if part is None else part.feature]


def _flat(conditioning: Conditioning) -> Tree:
    """What is the same at every step, as a tree."""
    text = [_of_pair(pair) for pair in conditioning.text]
    changes = [[_of_changes(site.attn1), _of_changes(site.attn2)] for site in conditioning.changes]
    return [conditioning.rows, text, changes, conditioning.added, conditioning.guidance]


def _prompts(
    conditioning: Conditioning, scales: Sequence[Sequence[float]]
) -> tuple[Tree, mx.array | None]:
    """Keys and values of image prompts by site, None where one is off; and all their factors."""
    if not conditioning.images:
        return [], None
    pairs = list(zip(conditioning.images, scales, strict=True))
    prompts = [
        [None if scale == 0.0 else _of_pair(pair) for pair, scale in zip(*one, strict=True)]
        for one in pairs
    ]
    factors = [[p.factor(scale) for p, scale in zip(*one, strict=True)] for one in pairs]
    return prompts, mx.array(factors).astype(conditioning.text[0].values.dtype)


def _context(conditioning: Tree, prompts: Tree, factors: mx.array | None) -> Context:
    rows, text, changes, added, guidance = conditioning
    images, scales = [], list[list[Weight]]()
    for number, pairs in enumerate(prompts):
        images.append(tuple(_UNUSED if pair is None else _pair(*pair) for pair in pairs))
        scales.append(list(_factors(pairs, factors, number)))
    return Context(
        rows,
        tuple(_pair(*pair) for pair in text),
        tuple(images),
        scales,
        tuple(SiteChanges(*map(_changes, site)) for site in changes),
        added,
        guidance,
    )


def _factors(pairs: Tree, factors: mx.array | None, prompt: int) -> Iterator[Weight]:
    for site, pair in enumerate(pairs):
        yield 0.0 if pair is None or factors is None else factors[prompt, site]


def _of_pair(pair: KeyValue) -> Tree:
    how = pair.scaling
    modes = [int(how.is_inside), int(how.is_of_mean), int(how.is_penalised)]
    return [pair.keys, pair.values, pair.mask, modes, pair.width]


def _pair(
    keys: mx.array, values: mx.array, mask: mx.array | None, modes: list[int], width: int | None
) -> KeyValue:
    return KeyValue(keys, values, mask, EmbedsScaling(*map(bool, modes)), width)


_UNUSED = KeyValue(mx.array(0), mx.array(0))


def _of_changes(changes: Any) -> Tree:
    return {part: [change.down, change.up] for part, change in changes.items()}


def _changes(tree: Tree) -> dict[str, LowRank]:
    return {part: LowRank(*matrices) for part, matrices in tree.items()}
