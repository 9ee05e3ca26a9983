"""What a comparison could not see, and why: notes for whoever reads its numbers."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.parity.capture.capture import Capture

from .limits import Limits


def notes_of(limits: Limits, a: Capture, b: Capture) -> tuple[str, ...]:
    """Notes on what the comparison of two runs with these limits could not see."""
    return tuple(_notes(limits, a, b))


def _notes(limits: Limits, a: Capture, b: Capture) -> Iterator[str]:
    for side in (a, b):
        if side.header.unfinished:
            yield f"{side.header.side.name} ended early: {side.header.unfinished}"
        if not side.is_summed:
            yield (
                f"the capture of {side.header.side.name} is of an older version, without checksums:"
                " damage to its numbers is not seen"
            )
    if limits.forced:
        yield (
            "stages were forced, so pictures and growth over the steps are left out: they would be "
            "the reference's own"
        )
    if not limits.floors and not limits.forced:
        yield (
            "no floors were measured, so limits are flat: faults near rounding, such as an epsilon "
            "of 1e-5 for 1e-6, are not seen"
        )
    elif not limits.floors:
        yield "no floors were measured, so limits are those of any stage: 32 roundings"
    elif not limits.forced and not limits.local:
        yield (
            "floors are of a whole run alone: faults near rounding are seen less well than where "
            "stages were forced"
        )
