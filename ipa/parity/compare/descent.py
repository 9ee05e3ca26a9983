"""A search for faults in little memory: parts of a run at a time, each held whole and let go.

All stages of a large model are gigabytes. Here the results of every phase are held first; then, of
what comes before the steps, of the first step, of the decoder, and of the phases in which a result
was bad, as many stages as a budget of memory takes, and in the next pass the next ones. Every stage
that is held is forced, so an error as small as that of a norm's epsilon is seen where it is made,
though in the result of its phase it is lost among rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from ipa.arrays import Floats
from ipa.backend.stages import kind_of, level_of, split, step_of
from ipa.backend.tap import Tap
from ipa.parity.capture.choice import Choice
from ipa.parity.capture.collector import Collector
from ipa.parity.capture.sketch import Kept

from .comparing_tap import ComparingTap, floors
from .limits import Limits
from .measures import Difference

Run = Callable[[Tap], object]

HELD = 1 << 30
"""The bytes of a reference's stages that a pass holds, unless one alone is more."""

_ALWAYS = frozenset({"result", "block"})
"""Levels that every pass holds of the phases that it looks into; others are inherited."""


@dataclass(frozen=True, slots=True)
class Descent:
    """The result of a search: `first` is the deepest pass's first bad stage, None if all is well.

    `differences` are those of all passes, in the order of the run; `passes` is how many there were.
    """

    first: Difference | None
    differences: tuple[Difference, ...]
    passes: int


def descend(
    reference: Run,
    subject: Run,
    limits: Limits,
    exact: Run | None = None,
    most_bytes: int = HELD,
    rounded: Run | None = None,
) -> Descent:
    """Find where a run parts from a reference, holding some of the stages at a time.

    Args:
        reference: Makes the reference's run, given a tap.
        subject: Makes the other.
        limits: On stages whose floor is not measured; its dtype, and limits of the user's own.
        exact: Makes the reference's run in a higher precision: measures floors.
        most_bytes: Bytes that a pass may hold.
        rounded: Makes the run whose floors `exact` measures; None: the reference's own.
    """
    search = _Search(reference, subject, limits, exact, most_bytes, rounded)
    search.take(_is_result)
    bad = {split(one.stage)[0] for one in search.found.values() if one.bad}
    looked_into = frozenset({_first_step(bad), *(phase for phase in bad if _step(phase) is None)})

    def wanted(stage: str) -> bool:
        phase = split(stage)[0]
        step = _step(phase)
        return step is None or step == 0 or phase in looked_into

    search.take(wanted)
    ordered = search.in_order()
    return Descent(next((one for one in ordered if one.bad), None), tuple(ordered), search.passes)


def _step(phase: str) -> int | None:
    return step_of(f"{phase}/")


def _first_step(phases: Iterable[str]) -> str:
    return min((phase for phase in phases if _step(phase) is not None), default="")


def _is_result(stage: str) -> bool:
    kind = kind_of(stage)
    return kind is not None and (kind.level == "result" or split(stage)[0] == "condition")


class _Search:
    """The state of a search: differences so far, and the order of stages."""

    def __init__(
        self,
        reference: Run,
        subject: Run,
        limits: Limits,
        exact: Run | None,
        most: int,
        rounded: Run | None,
    ) -> None:
        self._reference, self._subject = reference, subject
        self._exact, self._rounded = exact, rounded
        self._limits, self._most = limits, most
        self._held: set[str] = set()
        self.found: dict[str, Difference] = {}
        self.order: dict[str, int] = {}
        self.passes = 0

    def take(self, wanted: Callable[[str], bool]) -> None:
        """Compare all wanted stages that were not yet, in as many passes as it takes."""
        is_left = True
        while is_left:
            part = _Part(wanted, self._held, self._most)
            self._reference(part)
            self.order |= part.order
            if part.stages.keys() <= self._held:
                return
            self._hold(part.stages)
            self._held |= part.stages.keys()
            is_left = part.is_full

    def in_order(self) -> list[Difference]:
        """The differences in the order of the reference's run."""
        return sorted(self.found.values(), key=lambda one: self.order[one.stage.partition("@")[0]])

    def _hold(self, stages: Mapping[str, Kept]) -> None:
        self.passes += 1
        limits = replace(self._limits, floors=self._floors(stages), forced=True)
        tap = ComparingTap(stages, limits, forced=True)
        _only(self._subject, stages)(tap)
        for one in tap.differences:
            before = self.found.get(one.stage)
            if before is None or (one.bad and not before.bad):
                self.found[one.stage] = one

    def _floors(self, stages: Mapping[str, Kept]) -> Mapping[str, float]:
        if self._exact is None:
            return {}
        if self._rounded is not None:
            collector = Collector(Choice())
            _only(self._rounded, stages)(collector)
            stages = collector.stages
        return floors(stages, _only(self._exact, stages), forced=True)


class _Part:
    """A tap that keeps wanted stages that were not held before, until it is full.

    Results and blocks it keeps in any case.
    """

    def __init__(self, wanted: Callable[[str], bool], seen: Collection[str], most: int) -> None:
        self._wanted, self._seen, self._left = wanted, seen, most
        self.stages: dict[str, Kept] = {}
        self.order: dict[str, int] = {}
        self.is_full = False

    def wants(self, stage: str) -> bool:
        """See `Tap`."""
        self.order.setdefault(stage.partition("@")[0], len(self.order))
        return self._wanted(stage) or _is_result(stage)

    def __call__(self, stage: str, array: Floats) -> None:
        """See `Tap`. A part holds one stage at least, however large."""
        if _is_result(stage) or level_of(stage) in _ALWAYS:
            self.stages[stage] = array
        elif stage not in self._seen and not self.is_full:
            self.stages[stage] = array
            self._left -= array.nbytes
            self.is_full = self._left < 0


def _only(run: Run, stages: Iterable[str]) -> Run:
    """A tap that is given some stages alone: what nobody wants costs nothing."""
    names = {stage.partition("@")[0] for stage in stages}

    class Some:
        def __init__(self, tap: Tap) -> None:
            self._tap = tap

        def wants(self, stage: str) -> bool:
            return stage.partition("@")[0] in names

        def __call__(self, stage: str, array: Floats) -> Floats | None:
            return self._tap(stage, array)

    return lambda tap: run(Some(tap))
