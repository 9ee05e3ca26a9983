"""The making of a capture: a run's stages, with the floors that rounding makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ipa.backend.tap import Tap
from ipa.parity.capture.capture import Capture
from ipa.parity.capture.choice import Choice
from ipa.parity.capture.collector import Collector
from ipa.parity.capture.floors import Floors
from ipa.parity.capture.header import finished, header_of
from ipa.parity.capture.sketch import Kept
from ipa.parity.compare.comparing_tap import both_floors
from ipa.request.result import Progress, Result

if TYPE_CHECKING:
    from ipa.pipeline.pipeline import Pipeline
    from ipa.watching import CancelSignal


_EVERYTHING = Choice()


Exact = Callable[[], Callable[[Tap], object]]
"""A function that opens a backend and returns how it makes the run."""


NO_RUNS: Mapping[str, Exact] = MappingProxyType({})


def capture(
    pipe: Pipeline,
    arguments: Mapping[str, Any],
    choice: Choice = _EVERYTHING,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelSignal | None = None,
    exact: Mapping[str, Exact] = NO_RUNS,
) -> Capture:
    """Make a picture and keep the stages of the run.

    Where the run gives NaN, it is kept up to there: `Header.unfinished` says so.

    Args:
        pipe: The pipeline; its weights are read from their files again, to be hashed.
        arguments: Those of a call, for one picture.
        choice: What to keep.
        on_progress: Called with every event, in this thread.
        cancel: Asked between steps whether to stop.
        exact: By the precision of a comparison, opens who measures floors for it: the same run in a
            higher precision, or in that one where it is lower. Two runs each, of a whole capture
            that is held in memory until then.

    Raises:
        RequestError: An argument cannot be honoured, more than one picture is asked for, or a
            pattern or step of the choice is of no stage.
        CaptureError: The budget is too small.
    """
    hashes = pipe.fingerprints(arguments)
    whole = replace(choice, sketched=False, dtype="float32", max_bytes=None) if exact else choice
    collector = Collector(whole)
    result = finished(
        lambda: pipe(**arguments, tap=collector, on_progress=on_progress, cancel=cancel)
    )
    header, floors = header_of(pipe, hashes, result), dict[str, Floors]()
    if isinstance(result, Result):
        collector.check()
        floors = {name: both_floors(collector.stages, open_()) for name, open_ in exact.items()}
    return Capture(header, _kept(collector.stages, whole, choice), floors)


def _kept(stages: Mapping[str, Kept], whole: Choice, choice: Choice) -> Mapping[str, Kept]:
    """The stages that a choice keeps, of those that a wider one kept."""
    if whole is choice:
        return stages
    collector = Collector(choice)
    for stage, values in stages.items():
        collector(stage, np.asarray(values, np.float32))
    return collector.stages
