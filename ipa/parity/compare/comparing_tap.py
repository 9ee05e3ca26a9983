"""A tap that compares a run with a reference while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from ipa.arrays import Floats
from ipa.backend.stages import kind_of
from ipa.backend.tap import Tap
from ipa.errors import ParityError
from ipa.parity.capture.floors import NO_FLOORS, Floors
from ipa.parity.capture.sketch import Kept, Sketch, Whole

from .limits import Limits
from .measures import Difference, measure
from .sinusoids import Sinusoids


class ComparingTap:
    """A tap that measures how far each stage is from the reference's.

    With `forced` the reference's stage then takes the place of the run's own, so that an error is
    seen where it is made, and nowhere after it. Of a stage that is kept as a sketch nothing can be
    put in place.
    """

    def __init__(
        self, reference: Mapping[str, Kept], limits: Limits, *, forced: bool = False
    ) -> None:
        self._reference, self._limits, self._forced = reference, limits, forced
        self._sinusoids = Sinusoids()
        self.differences: list[Difference] = []
        self.others: list[str] = []

    def wants(self, stage: str) -> bool:
        """See `Tap`: all, if only to know which the reference lacks."""
        return True

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        """See `Tap`."""
        self._sinusoids.see(stage, array)
        if stage not in self._reference:
            self.others.append(stage)
            return None
        reference, least = self._reference[stage], self._sinusoids.floor(stage, array.shape)
        found = [
            difference(stage, *pair, self._limits, least=least)
            for pair in _pairs(stage, reference, array)
        ]
        self.differences.append(max(found, key=lambda one: one.measures.relative_l2))
        whole = self._forced and not isinstance(reference, Sketch)
        return np.asarray(reference, np.float32) if whole else None

    def missing(self) -> tuple[str, ...]:
        """The reference's stages that the run did not have."""
        seen = {difference.stage for difference in self.differences}
        return tuple(stage for stage in self._reference if stage not in seen)


def difference(
    stage: str,
    reference: Kept,
    other: Kept,
    limits: Limits,
    *,
    lost: float = 0.0,
    least: float | None = None,
) -> Difference:
    """The difference of one stage of two runs, in one shape.

    `lost` is what keeping it cost, in relative L2, and `least` what its floor is at least
    (`ipa.parity.compare.sinusoids`).
    """
    limit, measures = limits.limit(stage, least) + lost, measure(reference, other)
    return Difference(
        stage,
        reference.shape,
        measures,
        limits.floor(stage, least),
        limit,
        bad=not measures.finite or measures.relative_l2 > limit,
        sketched=isinstance(reference, Sketch) or isinstance(other, Sketch),
        lost=lost,
    )


def _pairs(stage: str, reference: Kept, array: Floats) -> Iterator[tuple[Kept, Kept]]:
    """The pairs of a stage of both runs, in one shape.

    A run that computes a row once is held to each row of one that does not: on some machines such
    rows are not quite equal. The sketch of one row is of no use for several, so rows go alone then.
    """
    if not isinstance(reference, Sketch) and len(reference) < len(array):
        reference = fitted(stage, reference, array.shape)
    if reference.shape[0] == 1 < len(array) and reference.shape[1:] == array.shape[1:]:
        yield from ((reference, array[n : n + 1]) for n in range(len(array)))
    else:
        yield reference, fitted(stage, array, reference.shape)


def fitted(stage: str, array: Whole, shape: tuple[int, ...]) -> Whole:
    """An array in a reference's shape: one row for all is as good as equal rows.

    Raises:
        ParityError: The shapes differ otherwise.
    """
    if array.shape == shape:
        return array
    if array.shape[1:] == shape[1:] and len(array) == 1:
        return np.broadcast_to(array, shape)
    if array.shape[1:] == shape[1:] and shape[0] == 1 and (array == array[:1]).all():
        return array[:1]
    raise ParityError(
        f"{stage} has another shape than the reference's",
        found=f"{array.shape}, not {shape}",
        remedy="compare runs of the same model and request",
    )


class _Exact(ComparingTap):
    """A tap that measures a reference's floors in a run of a higher precision.

    What it computes in float32 too, as the reference does, it would find without any rounding. So
    it is given what another machine would have there. Free, it goes on from other sinusoids, so
    that what last bits of frequencies make is in the floors of what follows. Forced, guidance and
    the sampler start from arrays whose last bits are off: what little is left of a difference of
    large numbers is off by many times that.
    """

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        instead = super().__call__(stage, array)
        if not self._forced:
            return self._sinusoids.nudged(stage, array)
        kind = kind_of(stage)
        is_sampled = kind is not None and kind.is_sampled
        return _off_by_bits(instead) if is_sampled and instead is not None else instead


def _off_by_bits(array: Floats) -> Floats:
    """An array with its last bits up, down or kept, by chance, so that rows differ."""
    turns = np.random.default_rng(0x1BC).integers(-1, 2, array.shape).astype(np.float32)
    found: Floats = array + turns * np.spacing(array)
    return found


def floors(
    reference: Mapping[str, Kept], exact: Callable[[Tap], object], *, forced: bool
) -> dict[str, float]:
    """Measure what rounding makes of every stage.

    Args:
        reference: A run.
        exact: Makes the same run in a higher precision, given a tap.
        forced: Whether every stage is computed of the reference's own inputs.
    """
    tap = _Exact(reference, Limits(), forced=forced)
    exact(tap)
    return {one.stage: max(one.measures.relative_l2, one.floor or 0.0) for one in tap.differences}


def both_floors(reference: Mapping[str, Kept], exact: Callable[[Tap], object]) -> Floors:
    """Measure floors of both kinds, in two runs; forced ones only if every stage is whole."""
    whole = not any(isinstance(values, Sketch) for values in reference.values())
    forced = floors(reference, exact, forced=True) if whole else NO_FLOORS
    return Floors(floors(reference, exact, forced=False), forced)
