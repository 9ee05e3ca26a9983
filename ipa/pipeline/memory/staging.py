"""Which parts of a model are in memory at each stage of a run, and what a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import clear_frames
from typing import Any

from ipa.backend.residency import Part, Residency
from ipa.errors import OutOfMemory
from ipa.memory.plan import MemoryPlan, in_words

RUN_ORDER = ("encode", "text", "images", "condition", "denoise", "decode")
"""The stages of `ipa.memory.plan.STAGES` as a run enters them: the start picture comes first."""

_LEAST_CACHE = 64 << 20  # bytes of freed buffers that a run may always keep


@dataclass(frozen=True, slots=True)
class Allotment:
    """The memory of one run: what was foreseen, and what was changed so that it fits.

    Attributes:
        plan: The stages, with the budget if there is one.
        taken: The names of offers that were taken.
        releases: Whether parts leave memory to keep to the budget.
        notes: Warnings about a run without a budget that takes more than the machine gives with
            ease.
        announced: What is said of it before it starts: those, or how much it takes.
    """

    plan: MemoryPlan
    taken: tuple[str, ...] = ()
    releases: bool = False
    notes: tuple[str, ...] = ()
    announced: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """JSON-able, for `Result.info`."""
        plan = self.plan
        return {
            "budget_bytes": plan.budget,
            "staged": plan.staged,
            "foreseen_peak_bytes": plan.peak,
            "foreseen_bytes": {stage.name: stage.peak for stage in plan.stages},
            "taken": list(self.taken),
        }


class Staging:
    """The parts of a backend during one run: before each stage, room is made for it."""

    def __init__(
        self,
        residency: Residency,
        allotted: Allotment | None,
        foresee: Callable[[], MemoryPlan],
    ) -> None:
        """`foresee` is asked for what nothing was allotted to, should its memory run out."""
        self._residency, self._allotted, self._foresee = residency, allotted, foresee
        self.stage = "encode"

    def enter(self, name: str) -> None:
        """Begin a stage: let parts go that it does not use, if the budget has no room for them."""
        self.stage = name
        allotted = self._allotted
        if allotted is None or not allotted.releases or allotted.plan.budget is None:
            return
        found = [stage for stage in allotted.plan.stages if stage.name == name]
        if not found:
            return
        parts = self._residency.parts()
        room = allotted.plan.budget - found[0].peak
        used = {s.name: frozenset(s.resident) for s in allotted.plan.stages}
        leaving = leave(name, parts, used, room)
        if leaving:
            self._residency.release(leaving)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A context for the whole run: freed buffers stay within the budget, too.

        Raises:
            OutOfMemory: Memory ran out all the same.
        """
        budget = None if self._allotted is None else self._allotted.plan.budget
        cache = None
        if budget is not None and self._allotted is not None:
            cache = max(_LEAST_CACHE, budget - self._allotted.plan.peak)
        with self._residency.limited(cache), told(self._residency.ran_out, self._words):
            yield

    def _words(self) -> tuple[str, str]:
        plan = self._foresee() if self._allotted is None else self._allotted.plan
        stages = {stage.name: stage.peak for stage in plan.stages}
        peak = stages.get(self.stage, plan.peak)
        words = f"in the stage {self.stage} of a run"
        return words, f"it was foreseen to take {in_words(peak)}"


def leave(
    stage: str, parts: Mapping[str, Part], used: Mapping[str, frozenset[str]], room: int
) -> list[str]:
    """The parts that leave before a stage, so that little has to be read again.

    What the run does not use goes first; then the smallest part that makes enough room, or else the
    largest, and so on.

    Args:
        stage: The stage that begins.
        parts: All parts.
        used: The parts that each stage of the run uses.
        room: The bytes beside what the stage takes.
    """
    now = used.get(stage, frozenset())
    spare = {n: part.nbytes for n, part in parts.items() if part.is_here and n not in now}
    waits = {name: _wait(name, stage, used) for name in spare}
    needed, gone = sum(spare.values()) - room, list[str]()
    while needed > 0 and spare:
        idle = [name for name in spare if waits[name] == len(RUN_ORDER)]
        among = idle or list(spare)
        enough = [name for name in among if spare[name] >= needed]
        if enough:
            name = min(enough, key=lambda name: (spare[name], -waits[name]))
        else:
            name = max(among, key=lambda name: spare[name])
        gone.append(name)
        needed -= spare.pop(name)
    return gone


def _wait(name: str, stage: str, used: Mapping[str, frozenset[str]]) -> int:
    """How many stages pass before a part is used, those of a like run after this one among them.

    What this run does not use at all waits for as many as there are.
    """
    here, count = RUN_ORDER.index(stage), len(RUN_ORDER)
    waits = ((RUN_ORDER.index(s) - here) % count for s, names in used.items() if name in names)
    return min(waits, default=count)


@contextmanager
def told(
    ran_out: Callable[[BaseException], bool], words: Callable[[], tuple[str, str]]
) -> Iterator[None]:
    """A context in which memory that runs out is one error of ours.

    The framework's error is let go, with all that its frames hold.
    """
    where = None
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        clear_frames(error.__traceback__)  # they hold what was computed
        where = str(error).strip().splitlines()[0][:200]
    if where is not None:
        what, foreseen = words()
        raise OutOfMemory(
            f"memory ran out {what}".strip(),
            found=f"{where}; {foreseen}" if foreseen else where,
            remedy="set memory_budget, make a smaller picture or fewer at once, or quantize; "
            "the pipeline can go on",
        )


def release_over(residency: Residency, budget: int, kept: Collection[str] = ()) -> None:
    """Let everything but some parts go, if what is or will be in memory is more than a budget."""
    parts = residency.parts()
    here = [name for name, part in parts.items() if part.is_here and name not in kept]
    total = sum(parts[name].nbytes for name in {*here, *(parts.keys() & kept)})
    if residency.can_release and total > budget:
        residency.release(here)
