"""Which component costs how much: a run with one component's results taken from the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import numpy as np

from ipa.arrays import Floats
from ipa.backend.stage_table import Component
from ipa.backend.stages import PICTURE, kind_of
from ipa.backend.tap import Tap
from ipa.parity.capture.sketch import Kept, Sketch

from .comparison import Swap
from .measures import measure


class Swappable(dict[str, Kept]):
    """A tap that keeps the stages of a reference that swaps need."""

    def wants(self, stage: str) -> bool:
        """See `Tap`."""
        kind = kind_of(stage)
        return kind is not None and (bool(kind.swaps) or kind.is_end)

    def __call__(self, stage: str, array: Floats) -> None:
        """See `Tap`."""
        self[stage] = array


class Swapped:
    """A tap that replaces stages with a reference's, and keeps the last one for comparison."""

    def __init__(self, instead: Mapping[str, Kept], last: str) -> None:
        self._instead, self._last = instead, last
        self.found: Floats | None = None

    def wants(self, stage: str) -> bool:
        """See `Tap`."""
        return stage in self._instead or stage == self._last

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        """See `Tap`."""
        instead = self._instead.get(stage)
        given = None if instead is None else np.asarray(instead, np.float32)
        if stage == self._last:
            self.found = array if given is None else given
        return given


def swaps(
    reference: Mapping[str, Kept], run: Callable[[Tap], object]
) -> tuple[float, tuple[Swap, ...]]:
    """The end result's relative L2, as it is and with each component of the reference swapped in.

    What follows in a run takes b's own results, so its components cannot be swapped alone: what is
    left with a's everything before the UNet is made by UNet, guidance, sampler and VAE; then by the
    VAE.

    Args:
        reference: Whole stages of a run, by name; those that are sketched cannot be put in.
        run: Makes the other run, given a tap.
    """
    last = last_stage(reference)
    chosen = {
        component: {
            stage: values
            for stage, values in reference.items()
            if not isinstance(values, Sketch) and component in _swaps(stage)
        }
        for component in get_args(Component)
    }
    whole = _left(reference[last], {}, last, run)
    return whole, tuple(
        Swap(component, _left(reference[last], instead, last, run))
        for component, instead in chosen.items()
        if instead
    )


def last_stage(reference: Mapping[str, object]) -> str:
    """The stage to compare at the end: the picture, or the last latents if none was decoded."""
    if PICTURE in reference:
        return PICTURE
    return max(stage for stage in reference if (kind := kind_of(stage)) and kind.is_end)


def _swaps(stage: str) -> tuple[Component, ...]:
    kind = kind_of(stage)
    return () if kind is None else kind.swaps


def _left(
    reference: Kept, instead: Mapping[str, Kept], last: str, run: Callable[[Tap], object]
) -> float:
    tap = Swapped(instead, last)
    run(tap)
    if tap.found is None:
        raise RuntimeError(f"a run ended without {last}")
    return measure(reference, tap.found).relative_l2
