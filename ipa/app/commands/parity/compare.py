"""`ipa-mlx parity compare A B`, where captures and running backends may stand on either side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipa.backend.tap import Tap
from ipa.errors import RequestError
from ipa.parity.capture.capture import Capture, Header
from ipa.parity.capture.capture_file import read
from ipa.parity.capture.choice import Choice
from ipa.parity.capture.floors import NO_MEASURE, Floors
from ipa.parity.compare.captures import compare, usual_limits
from ipa.parity.compare.caveats import notes_of
from ipa.parity.compare.comparison import Comparison, Swap
from ipa.parity.compare.compatibility import check_headers
from ipa.parity.compare.descent import descend
from ipa.parity.compare.limits import Limits, lower
from ipa.parity.compare.live import Subject, compare_live
from ipa.parity.compare.swaps import Swappable, swaps

from .show import PatternLimits, check_options, own_limits
from .subjects import LiveSpec, Opening, parse_subject

_LIVE_ONLY = {"forced": "--forced", "descend": "--descend", "swaps": "--swaps"}


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the command, beside its two sides."""

    options: Mapping[str, Any]

    @property
    def allow(self) -> tuple[str, ...]:
        """The names of what may differ between the two runs."""
        return tuple(filter(None, (self.options["allow"] or "").split(",")))

    @property
    def limits(self) -> tuple[str, ...]:
        """The limits, as they were typed."""
        return tuple(self.options["limit"] or ())

    def is_set(self, name: str) -> bool:
        """Whether a switch is on."""
        return bool(self.options[name])


def compare_named(a: str, b: str, options: Mapping[str, Any]) -> Comparison:
    """Compare b with a, each a capture or a backend, as the options of the command say.

    Raises:
        RequestError: An option needs a backend that runs, or a backend a request; a report cannot
            be written where it is to be.
        IncompatibleCaptures: They are of different runs.
    """
    first, second = parse_subject(a), parse_subject(b)
    asked = Asked(options)
    check_options(options)
    if isinstance(second, Path):
        return _against_capture(first, second, asked)
    opening = Opening.of(options)
    if asked.is_set("descend") and not isinstance(first, Path):
        return _descended(first, second, opening, asked)
    return _live(first, second, opening, asked)


def _against_capture(first: Path | LiveSpec, second: Path, asked: Asked) -> Comparison:
    refused = [name for option, name in _LIVE_ONLY.items() if asked.is_set(option)]
    if refused:
        raise RequestError(
            f"{refused[0]} gives the reference's stages to B while it runs",
            found=f"B is the capture {second}",
            remedy="name a backend as B, such as mlx",
        )
    other = read(second)
    if isinstance(first, Path):
        reference = read(first)
    else:
        opening = Opening.of(asked.options)
        reference = opening.subject(first).capture(Choice())
        if asked.is_set("floor") and not _floors(other, reference.header, other.header):
            reference = _with_floors(reference, other.header.precision, opening)
    stage_limits = own_limits(asked.limits, reference.stages)
    if asked.is_set("floor"):
        limits = usual_limits(reference, other, stage_limits)
    else:
        limits = Limits(
            lower(reference.header.precision, other.header.precision), by_stage=stage_limits
        )
    return compare(reference, other, limits, asked.allow)


def _floors(of: Capture, a: Header, b: Header) -> Floors:
    """A capture's floors for a comparison of these two."""
    return of.floors.get(lower(a.precision, b.precision), NO_MEASURE)


def _with_floors(reference: Capture, other: str, opening: Opening) -> Capture:
    low = lower(reference.header.precision, other)
    floors = opening.floors(reference, low, forced=False)
    return reference if floors is NO_MEASURE else replace(reference, floors={low: floors})


def _live(first: Path | LiveSpec, spec: LiveSpec, opening: Opening, asked: Asked) -> Comparison:
    """Compare a running backend with a capture or another backend, with all stages in one pass."""
    forced = asked.is_set("forced") or asked.is_set("descend")
    subject = opening.subject(spec)
    reference = read(first) if isinstance(first, Path) else opening.subject(first).capture(Choice())
    stage_limits, floors = own_limits(asked.limits, reference.stages), NO_MEASURE
    if asked.is_set("floor"):
        low = lower(reference.header.precision, subject.precision)
        floors = reference.floors.get(low, NO_MEASURE)
        if not (floors.forced if forced else floors.free):
            floors = opening.floors(reference, low, forced=forced)
    return compare_live(
        reference,
        subject,
        mode="teacher-forced" if forced else "free-running",
        floors=floors,
        by_stage=stage_limits,
        with_swaps=asked.is_set("swaps"),
        allow=asked.allow,
    )


class _Heard:
    """A subject that keeps the header of its last run."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.header: Header | None = None

    def __call__(self, tap: Tap) -> None:
        self.header = self._subject.made(tap)

    def told(self) -> Header:
        """The header of the last run."""
        if self.header is None:
            raise RuntimeError("nothing was run")
        return self.header


def _descended(first: LiveSpec, spec: LiveSpec, opening: Opening, asked: Asked) -> Comparison:
    reference, subject = opening.subject(first), opening.subject(spec)
    low = lower(reference.precision, subject.precision)
    exact = rounded = None
    if asked.is_set("floor"):
        exact = opening.exact(first.backend, first.dtype, low)
        rounded = opening.rounded(first.backend, low)
    limits = Limits(low, by_stage=PatternLimits(asked.limits), forced=True)
    a, b = _Heard(reference), _Heard(subject)
    found = descend(
        *(a, b, limits),
        None if exact is None else exact.run,
        rounded=None if rounded is None else rounded.run,
    )
    check_headers(a.told(), b.told(), asked.allow)
    own_limits(asked.limits, [one.stage for one in found.differences])  # none is of no stage
    whole: float | None = None
    swapped: tuple[Swap, ...] = ()
    if asked.is_set("swaps"):
        swappable = Swappable()
        reference.run(swappable)
        whole, swapped = swaps(swappable, subject.run)
    floor_by_stage = {one.stage: one.floor for one in found.differences if one.floor is not None}
    return Comparison(
        a=a.told().side,
        b=b.told().side,
        mode="teacher-forced",
        request=a.told().request,
        differences=found.differences,
        swaps=swapped,
        unswapped=whole,
        notes=notes_of(
            replace(limits, floors=floor_by_stage), Capture(a.told(), {}), Capture(b.told(), {})
        ),
    )
