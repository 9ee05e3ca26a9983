"""Comparisons of two captures, stage by stage."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from ipa.backend.stages import PICTURE
from ipa.parity.capture.capture import Capture
from ipa.parity.capture.collector import HALF_BIT
from ipa.parity.capture.floors import NO_FLOORS, NO_MEASURE
from ipa.parity.capture.sketch import Kept, Sketch

from .caveats import notes_of
from .comparing_tap import difference, fitted
from .comparison import Comparison, Pictures
from .compatibility import check_compatible
from .limits import Limits, lower
from .measures import Difference
from .rising import risen
from .similarity import pictures


def compare(
    a: Capture, b: Capture, limits: Limits | None = None, allow: Collection[str] = ()
) -> Comparison:
    """Compare b with a, free-running: every stage follows from its own run's stages before it.

    Args:
        a: The reference.
        b: The other.
        limits: What is bad; None is by the floors that the captures carry (`usual_limits`). Where a
            stage is kept in float16, half of its last bit is added.
        allow: Names of what may differ; see `check_compatible`.

    Raises:
        IncompatibleCaptures: They are of different models or requests; everything that differs is
            listed.
        ParityError: A stage has other shapes.
        CaptureError: A stage cannot be read.
    """
    check_compatible(a, b, allow)
    chosen = limits or usual_limits(a, b)
    found = risen(_differences(a, b, chosen), chosen)
    measured = {one.stage for one in found}
    return Comparison(
        a=a.header.side,
        b=b.header.side,
        mode="free-running",
        request=a.header.request,
        differences=found,
        only_a=tuple(stage for stage in a.stages if stage not in measured),
        only_b=tuple(stage for stage in b.stages if stage not in measured),
        pictures=_pictures(a, b),
        notes=notes_of(chosen, a, b),
    )


def usual_limits(a: Capture, b: Capture, by_stage: Mapping[str, float] = NO_FLOORS) -> Limits:
    """The usual limits: by the larger floor of either capture; flat ones without floors.

    `by_stage` has limits in the place of those.
    """
    dtype = lower(a.header.precision, b.header.precision)
    floors = [one.floors.get(dtype, NO_MEASURE) for one in (a, b)]
    return Limits.of(dtype, floors[0].joined(floors[1]), by_stage, forced=False)


def _differences(a: Capture, b: Capture, limits: Limits) -> Iterator[Difference]:
    for stage in a.stages:
        if stage not in b.stages:
            continue
        pair = _alike(stage, a.stages[stage], b.stages[stage])
        if pair is not None:
            lost = HALF_BIT if any(map(_is_half, pair)) else 0.0
            yield difference(stage, *pair, limits, lost=lost)


def _alike(stage: str, a: Kept, b: Kept) -> tuple[Kept, Kept] | None:
    """Two stages in one shape; None for sketches of one row and of several, which say nothing."""
    if a.shape == b.shape:
        return a, b
    if not isinstance(a, Sketch) and (len(a) == 1 or isinstance(b, Sketch)):
        return fitted(stage, a, b.shape), b
    return None if isinstance(b, Sketch) else (a, fitted(stage, b, a.shape))


def _is_half(values: Kept) -> bool:
    return not isinstance(values, Sketch) and values.dtype == np.float16


def _pictures(a: Capture, b: Capture) -> Pictures | None:
    """The final pictures of both captures, if both are whole."""
    if PICTURE not in a.stages or PICTURE not in b.stages:
        return None
    first, second = a.stages[PICTURE], b.stages[PICTURE]
    if isinstance(first, Sketch) or isinstance(second, Sketch) or first.shape != second.shape:
        return None
    ours, theirs = a.header.embedding, b.header.embedding
    both = None if ours is None or theirs is None else (ours, theirs)
    return pictures(first.astype(np.float32), second.astype(np.float32), both)
