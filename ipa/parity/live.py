"""Two backends compared while they run, or one against a capture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ipa.contract.errors import RequestError
from ipa.contract.result import Result

from .against import Against, floors
from .capture import Capture
from .choice import Choice
from .collector import Collector
from .comparison import Comparison, Mode, Side
from .limits import Limits, lower
from .measuring import Kept
from .similarity import pictures
from .sketch import Sketch
from .swaps import swaps
from .tap import Tap

PICTURE = "decode/image"


@dataclass(frozen=True, slots=True)
class Subject:
    """Who can make a run of one request, as often as it is asked."""

    side: Side
    run: Callable[[Tap], Result]

    def collected(self, choice: Choice) -> dict[str, Kept]:
        """The stages of a run."""
        collector = Collector(choice)
        self.run(collector)
        return collector.stages


@dataclass(frozen=True, slots=True)
class Reference:
    """What others are held against: the stages of a run, and what made them."""

    side: Side
    request: Mapping[str, Any]
    stages: Mapping[str, Kept]

    @classmethod
    def of(cls, capture: Capture) -> Reference:
        """A capture."""
        return cls(capture.header.side, capture.header.request, capture.stages)


def compare_live(
    reference: Reference,
    subject: Subject,
    *,
    mode: Mode = "free-running",
    exact: Subject | None = None,
    with_swaps: bool = False,
) -> Comparison:
    """A run held against a reference, stage by stage.

    Args:
        reference: The stages of another run of the same request.
        subject: Makes the run.
        mode: "teacher-forced" gives every stage the reference's input, so that an error stays where
            it is made; "free-running" each its own.
        exact: Makes the reference's run in a higher precision than `subject` computes in, or, where
            that is a lower one than the reference's, the reference's in that lower one: how far it
            is from the reference is the floor of each stage. None: floors are not known.
        with_swaps: Run once more for each component, with that of the reference.

    Raises:
        RequestError: Stages are to be forced, or swapped, that the reference has as sketches.
        ParityError: A stage has another shape: the models or requests differ.
    """
    forced = mode == "teacher-forced"
    _check_whole(reference, needed=forced or with_swaps)
    known = {} if exact is None else floors(reference.stages, exact.run, forced=forced)
    limits = Limits(lower(reference.side.dtype, subject.side.dtype), known)
    tap = _WithPicture(reference.stages, limits, forced=forced)
    subject.run(tap)
    whole, swapped = swaps(reference.stages, subject.run) if with_swaps else (None, ())
    seen = reference.stages.get(PICTURE)
    both = None
    if tap.picture is not None and seen is not None and not isinstance(seen, Sketch):
        both = pictures(seen, tap.picture, None)
    return Comparison(
        a=reference.side,
        b=subject.side,
        mode=mode,
        request=reference.request,
        differences=tuple(tap.differences),
        only_a=tap.missing(),
        only_b=tuple(tap.others),
        pictures=both,
        swaps=swapped,
        unswapped=whole,
    )


class _WithPicture(Against):
    """Keeps the run's picture, too."""

    picture: Any = None

    def __call__(self, stage: str, array: Any) -> Any:
        if stage == PICTURE:
            self.picture = array
        return super().__call__(stage, array)


def _check_whole(reference: Reference, *, needed: bool) -> None:
    sketched = [name for name, kept in reference.stages.items() if isinstance(kept, Sketch)]
    if needed and sketched:
        raise RequestError(
            "sketched stages cannot be given to another run",
            found=f"{len(sketched)} in the reference, first {sketched[0]}",
            remedy="capture it without --sketch and --max-bytes, or compare free-running",
        )
