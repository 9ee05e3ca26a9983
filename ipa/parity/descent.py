"""The way down to a fault: from results to blocks, layers and operations, a level at a time.

All stages of a large model are gigabytes. Here each pass holds those of one level: the results of
every phase; then, of the phase of the first bad one, what has no part in something larger; then the
parts of the first bad one of those, until none is bad.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ipa.contract.backend import Floats

from .against import Against, floors
from .difference import Difference
from .limits import Limits
from .measuring import Kept
from .stages import kind_of, split
from .tap import Tap

Run = Callable[[Tap], object]


@dataclass(frozen=True, slots=True)
class Descent:
    """`path` has the first bad stage of every pass, the deepest last; () where none is bad.

    `differences` are those of all passes.
    """

    path: tuple[Difference, ...]
    differences: tuple[Difference, ...]


def parent(stage: str) -> str | None:
    """The stage that a stage is a part of, None for results and what stands by itself."""
    phase, path = split(stage)
    bare, at, number = path.partition("@")
    head = bare
    while "." in head:
        head = head.rpartition(".")[0]
        kind = kind_of(head)
        if kind is not None and kind.level != "result":
            return f"{phase}/{head}{at}{number}"
    return None


def descend(reference: Run, subject: Run, limits: Limits, exact: Run | None = None) -> Descent:
    """Find where a run first parts from a reference, with the stages of one level at a time.

    Every stage of a pass is forced to the reference's. An error that is small beside the rounding
    of a whole phase is not seen on the way down: hold all stages against the reference at once for
    that, where they fit.

    Args:
        reference: Makes the reference's run, given a tap.
        subject: Makes the other.
        limits: On stages whose floor is not measured; its factor and dtype.
        exact: Makes the reference's run in a higher precision: measures floors.
    """
    path: list[Difference] = []
    seen: dict[str, Difference] = {}
    wanted: Callable[[str], bool] | None = _is_result
    while wanted is not None:
        found = _pass(reference, subject, limits, exact, wanted)
        seen |= {one.stage: one for one in found}
        bad = next((one for one in found if one.bad), None)
        if bad is None or (path and bad.stage == path[-1].stage):
            break
        path.append(bad)
        wanted = _deeper(path)
    return Descent(tuple(path), tuple(seen.values()))


def _is_result(stage: str) -> bool:
    kind = kind_of(split(stage)[1])
    return kind is not None and (kind.level == "result" or split(stage)[0] == "condition")


def _deeper(path: list[Difference]) -> Callable[[str], bool]:
    """Results, what stands by itself in the phase, and the parts of what was bad on the way."""
    phase = split(path[-1].stage)[0]
    whole = {one.stage.partition("@")[0] for one in path}

    def wanted(stage: str) -> bool:
        above = parent(stage)
        return _is_result(stage) or (
            split(stage)[0] == phase and (above is None or above.partition("@")[0] in whole)
        )

    return wanted


def _pass(
    reference: Run,
    subject: Run,
    limits: Limits,
    exact: Run | None,
    wanted: Callable[[str], bool],
) -> list[Difference]:
    kept = _Kept(wanted)
    reference(kept)
    known = {} if exact is None else floors(kept.stages, _only(exact, kept.stages), forced=True)
    tap = Against(kept.stages, replace(limits, floors=known, forced=True), forced=True)
    _only(subject, kept.stages)(tap)
    return tap.differences


class _Kept:
    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self._wanted = wanted
        self.stages: dict[str, Kept] = {}

    def wants(self, stage: str) -> bool:
        return self._wanted(stage)

    def __call__(self, stage: str, array: Floats) -> None:
        self.stages[stage] = array


def _only(run: Run, stages: Iterable[str]) -> Run:
    """Tells a tap of some stages alone: what nobody wants costs nothing."""
    names = {stage.partition("@")[0] for stage in stages}

    class Some:
        def __init__(self, tap: Tap) -> None:
            self._tap = tap

        def wants(self, stage: str) -> bool:
            return stage.partition("@")[0] in names

        def __call__(self, stage: str, array: Floats) -> Floats | None:
            return self._tap(stage, array)

    return lambda tap: run(Some(tap))
