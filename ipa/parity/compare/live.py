"""Two backends compared while they run, or one against a capture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipa.arrays import Floats
from ipa.backend.stages import PICTURE
from ipa.backend.tap import Tap
from ipa.errors import RequestError
from ipa.parity.capture.capture import Capture, Header, Side
from ipa.parity.capture.choice import Choice
from ipa.parity.capture.collector import Collector
from ipa.parity.capture.floors import NO_FLOORS, NO_MEASURE, Floors
from ipa.parity.capture.header import Unfinished, finished, header_of
from ipa.parity.capture.sketch import Sketch
from ipa.request.result import Result

from .caveats import notes_of
from .comparing_tap import ComparingTap, both_floors
from .comparing_tap import floors as floors_by
from .comparison import Comparison, Mode, Pictures, Swap
from .compatibility import check_headers
from .limits import Limits, lower
from .rising import risen
from .similarity import pictures
from .swaps import swaps

if TYPE_CHECKING:
    from ipa.pipeline.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Subject:
    """A maker of runs of one request, as often as asked.

    `header` says what made a result; None where there is nothing to compare of it. `bits` are those
    of quantised weights.
    """

    side: Side
    run: Callable[[Tap], Result]
    header: Callable[[Result | Unfinished], Header] | None = None
    bits: int | None = None

    @property
    def precision(self) -> str:
        """The precision, a key of `limits.ROUNDING`; the weights' where they are quantised."""
        return self.side.dtype if self.bits is None else f"{self.bits}-bit"

    @classmethod
    def of(cls, pipe: Pipeline, arguments: Mapping[str, Any], bits: int | None = None) -> Subject:
        """A subject that calls a pipeline with these arguments, for one picture."""
        hashes, facts = pipe.fingerprints(arguments), pipe.info()
        side = Side(f"{facts['backend']} {facts['dtype']}", facts["backend"], facts["dtype"], {})
        return cls(
            side,
            lambda tap: pipe(**arguments, tap=tap),
            lambda result: header_of(pipe, hashes, result),
            bits,
        )

    def capture(self, choice: Choice) -> Capture:
        """Make a run and record it; up to where it ended."""
        collector = Collector(choice)
        return Capture(self.made(collector), collector.stages)

    def made(self, tap: Tap) -> Header:
        """Make a run and return its header, marked unfinished if numbers were lost.

        Raises:
            NumericalError: Nothing of the run could be told.
        """
        return self.told(finished(lambda: self.run(tap)))

    def told(self, result: Result | Unfinished) -> Header:
        """The header for a result."""
        if self.header is not None:
            return self.header(result)
        side, info = self.side, result.info
        return Header(
            model=info["model"],
            backend=side.backend,
            dtype=side.dtype,
            device=info["device"],
            request=info["request"],
            environment=side.environment,
            fingerprints={},
            timings_s=info["timings_s"],
            unfinished=result.why if isinstance(result, Unfinished) else "",
        )


def compare_live(
    reference: Capture,
    subject: Subject,
    *,
    mode: Mode = "free-running",
    exact: Subject | None = None,
    floors: Floors = NO_MEASURE,
    by_stage: Mapping[str, float] = NO_FLOORS,
    with_swaps: bool = False,
    allow: Collection[str] = (),
) -> Comparison:
    """Compare a run with a reference, stage by stage, while it goes on.

    Args:
        reference: Another run of the same request.
        subject: Makes the run.
        mode: "teacher-forced" gives every stage the reference's input, so that an error stays where
            it is made; "free-running" each its own.
        exact: Makes the reference's run in a higher precision than `subject` computes in, or, where
            that is a lower one than the reference's, the reference's in that lower one: how far it
            is from the reference is the floor of each stage. None: floors are not measured.
        floors: Those that are known already, of a capture; they take the place of a measurement.
        by_stage: By stage, limits in the place of those by floors.
        with_swaps: Run once more for each component, with that of the reference.
        allow: Names of what may differ; see `ipa.parity.compare.compatibility`.

    Raises:
        RequestError: Stages are to be forced, or swapped, that the reference has as sketches.
        IncompatibleCaptures: The runs are of different models or requests.
        ParityError: A stage has another shape.
    """
    forced = mode == "teacher-forced"
    if forced or with_swaps:
        check_whole(reference)
    if exact is not None and not (floors.forced if forced else floors.free):
        floors = measured(reference, exact, forced=forced)
    low = lower(reference.header.precision, subject.precision)
    limits = Limits.of(low, floors, by_stage, forced=forced)
    tap = _WithPicture(reference.stages, limits, forced=forced)
    header = subject.made(tap)
    check_headers(reference.header, header, allow)
    whole: float | None = None
    swapped: tuple[Swap, ...] = ()
    if with_swaps and not (header.unfinished or reference.header.unfinished):
        whole, swapped = swaps(reference.stages, subject.run)
    return Comparison(
        a=reference.header.side,
        b=header.side,
        mode=mode,
        request=reference.header.request,
        differences=risen(tap.differences, limits),
        only_a=tap.missing(),
        only_b=tuple(tap.others),
        pictures=None if forced else _pictures(reference, tap.picture, header),
        swaps=swapped,
        unswapped=whole,
        notes=notes_of(limits, reference, Capture(header, {})),
    )


def measured(reference: Capture, exact: Subject, *, forced: bool) -> Floors:
    """Measure a reference's floors, in one run of `exact` or, free, in two.

    Nothing of a run that is unfinished.
    """
    if reference.header.unfinished:
        return NO_MEASURE
    if forced:
        return Floors(forced=floors_by(reference.stages, exact.run, forced=True))
    return both_floors(reference.stages, exact.run)


def _pictures(reference: Capture, other: Floats | None, header: Header) -> Pictures | None:
    seen = reference.stages.get(PICTURE)
    if other is None or seen is None or isinstance(seen, Sketch):
        return None
    ours, theirs = reference.header.embedding, header.embedding
    both = None if ours is None or theirs is None else (ours, theirs)
    return pictures(seen.astype("float32"), other, both)


class _WithPicture(ComparingTap):
    """A tap that keeps the run's picture, too."""

    picture: Floats | None = None

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        if stage == PICTURE:
            self.picture = array
        return super().__call__(stage, array)


def check_whole(reference: Capture) -> None:
    """Raise RequestError if some stage is a sketch, which no other run can be given."""
    sketched = [name for name, values in reference.stages.items() if isinstance(values, Sketch)]
    if sketched:
        raise RequestError(
            "sketched stages cannot be given to another run",
            found=f"{len(sketched)} in the reference, first {sketched[0]}",
            remedy="capture it without --sketch and --max-bytes, or compare free-running",
        )
