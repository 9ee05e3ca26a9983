"""`ipa-mlx parity compare A B`, where captures and running backends may stand on either side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipa.app.parity import own_limits
from ipa.app.subjects import LiveSpec, Opening, parse_subject
from ipa.contract.errors import RequestError
from ipa.parity.capture import Capture
from ipa.parity.capture_file import read
from ipa.parity.choice import Choice
from ipa.parity.comparing import compare
from ipa.parity.comparison import Comparison
from ipa.parity.descent import Run, descend
from ipa.parity.limits import Limits, lower
from ipa.parity.live import check_whole, compare_live
from ipa.parity.sketch import Sketch
from ipa.parity.tap import Tap

_LIVE_ONLY = {"forced": "--forced", "descend": "--descend", "swaps": "--swaps"}


def compare_named(a: str, b: str, options: Mapping[str, Any]) -> Comparison:
    """b against a, each a capture or a backend, as the options of the command say.

    Raises:
        RequestError: An option needs a backend that runs, or a backend a request.
        IncompatibleCaptures: They are of different runs.
    """
    first, second = parse_subject(a), parse_subject(b)
    allow = tuple(filter(None, (options["allow"] or "").split(",")))
    if isinstance(second, Path):
        asked = [name for option, name in _LIVE_ONLY.items() if options[option]]
        if asked:
            raise RequestError(
                f"{asked[0]} gives the reference's stages to B while it runs",
                found=f"B is the capture {second}",
                remedy="name a backend as B, such as mlx",
            )
        other = read(second)
        reference = read(first) if isinstance(first, Path) else _recorded(first, options)
        own = own_limits(options["limit"] or (), reference)
        limits = Limits(lower(reference.header.precision, other.header.precision), own=own)
        return compare(reference, other, limits, allow)
    return _live(first, second, options, allow)


def _recorded(spec: LiveSpec, options: Mapping[str, Any]) -> Capture:
    return Opening.of(options).subject(spec).capture(Choice())


def _live(
    first: Path | LiveSpec, spec: LiveSpec, options: Mapping[str, Any], allow: tuple[str, ...]
) -> Comparison:
    opening, exact = Opening.of(options), None
    if options["descend"]:
        return _descended(first, spec, opening, floor=options["floor"])
    reference = read(first) if isinstance(first, Path) else opening.subject(first).capture(Choice())
    if options["floor"]:
        own = reference.header
        exact = opening.exact(own.backend, own.dtype, spec)
    return compare_live(
        reference,
        opening.subject(spec),
        mode="teacher-forced" if options["forced"] else "free-running",
        exact=exact,
        own=own_limits(options["limit"] or (), reference),
        with_swaps=options["swaps"],
        allow=allow,
    )


def _descended(
    first: Path | LiveSpec, spec: LiveSpec, opening: Opening, *, floor: bool
) -> Comparison:
    subject = opening.subject(spec)
    if isinstance(first, Path):
        known = read(first)
        check_whole(known)
        side, run = known.header.side, _replay(known)
    else:
        live = opening.subject(first)
        side, run = live.side, live.run
    exact = opening.exact(side.backend, side.dtype, spec) if floor else None
    limits = Limits(lower(side.dtype, subject.precision))
    found = descend(run, subject.run, limits, None if exact is None else exact.run)
    return Comparison(
        a=side,
        b=subject.side,
        mode="teacher-forced",
        request=opening.asked.described or {},
        differences=found.differences,
        first_of=found.path[-1].stage if found.path else None,
    )


def _replay(capture: Capture) -> Run:
    """Tells what a capture holds, as its run did."""

    def run(tap: Tap) -> None:
        for stage, kept in capture.stages.items():
            if not isinstance(kept, Sketch) and tap.wants(stage.partition("@")[0]):
                tap(stage, kept.astype("float32"))

    return run
