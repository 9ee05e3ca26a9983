"""Which component costs how much: a run with one component's results taken from the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import numpy as np

from ipa.arrays import Floats
from ipa.backend.tap import Tap
from ipa.parity.capture.sketch import Kept, Sketch

from .comparison import Swap
from .measures import measure

COMPONENTS = {
    "text encoders": ("text.*/states", "text.*/pooled"),
    "preprocessing of pictures": ("image.*/pixels",),
    "image encoder": ("image.*/features.*",),
    "projector": ("image.*/tokens.*",),
    "adapter's keys and values": ("condition/image.*",),
    "everything before the UNet": ("text.*/states", "text.*/pooled", "condition/image.*"),
    "everything before the VAE": ("step.*/latents",),
}
"""Patterns of the stages by which a component is swapped.

What follows in a run takes b's own results, so its components cannot be swapped alone: what is left
with a's everything before the UNet is made by UNet, guidance, sampler and VAE; then by the VAE.
"""


_NEEDED = ("*/latents", "decode/image", *(p for patterns in COMPONENTS.values() for p in patterns))


class Swappable(dict[str, Kept]):
    """A tap that keeps the stages of a reference that swaps need."""

    def wants(self, stage: str) -> bool:
        """See `Tap`."""
        return any(fnmatchcase(stage, pattern) for pattern in _NEEDED)

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

    Args:
        reference: Whole stages of a run, by name; those that are sketched cannot be put in.
        run: Makes the other run, given a tap.
    """
    last = last_stage(reference)
    chosen = {
        component: {
            stage: values
            for stage, values in reference.items()
            if not isinstance(values, Sketch) and any(fnmatchcase(stage, p) for p in patterns)
        }
        for component, patterns in COMPONENTS.items()
    }
    whole = _left(reference[last], {}, last, run)
    return whole, tuple(
        Swap(component, _left(reference[last], instead, last, run))
        for component, instead in chosen.items()
        if instead
    )


def last_stage(reference: Mapping[str, object]) -> str:
    """The stage to compare at the end: the picture, or the last latents if none was decoded."""
    if "decode/image" in reference:
        return "decode/image"
    return max(stage for stage in reference if stage.endswith("/latents"))


def _left(
    reference: Kept, instead: Mapping[str, Kept], last: str, run: Callable[[Tap], object]
) -> float:
    tap = Swapped(instead, last)
    run(tap)
    if tap.found is None:
        raise RuntimeError(f"a run ended without {last}")
    return measure(reference, tap.found).relative_l2
