"""A run of a pipeline, recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ipa.contract.errors import NumericalError, RequestError
from ipa.contract.result import Progress, Result

from .against import both_floors
from .capture import Capture, Header
from .choice import Choice
from .collector import Collector
from .environment import environment
from .limits import Floors
from .measuring import Kept
from .tap import Tap

if TYPE_CHECKING:
    from ipa.pipeline import Pipeline
    from ipa.run import CancelSignal

_EVERYTHING = Choice()

Exact = Callable[[], Callable[[Tap], object]]
"""Opens a backend, and gives how it makes the run."""

NO_RUNS: Mapping[str, Exact] = MappingProxyType({})


def capture(
    pipe: Pipeline,
    arguments: Mapping[str, Any],
    choice: Choice = _EVERYTHING,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelSignal | None = None,
    exact: Mapping[str, Exact] = NO_RUNS,
) -> Capture:
    """Make a picture and keep what was computed on the way.

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
    known = pipe.fingerprints()
    whole = replace(choice, sketched=False, dtype="float32", max_bytes=None) if exact else choice
    collector = Collector(whole)
    result = finished(
        lambda: pipe(**arguments, tap=collector, on_progress=on_progress, cancel=cancel)
    )
    header, floors = header_of(pipe, known, result), dict[str, Floors]()
    if isinstance(result, Result):
        collector.check()
        floors = {name: both_floors(collector.stages, open_()) for name, open_ in exact.items()}
    return Capture(header, _kept(collector.stages, whole, choice), floors)


def _kept(stages: Mapping[str, Kept], whole: Choice, choice: Choice) -> Mapping[str, Kept]:
    """What a choice keeps of stages that were kept by a wider one."""
    if whole is choice:
        return stages
    collector = Collector(choice)
    for stage, kept in stages.items():
        collector(stage, np.asarray(kept, np.float32))
    return collector.stages


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Of a run that ended early, because numbers were lost: `info` as of a result, and why."""

    info: Mapping[str, Any]
    why: str
    images: tuple[()] = ()


def finished(run: Callable[[], Result]) -> Result | Unfinished:
    """A run's result, or what is known of one that gave NaN.

    Raises:
        NumericalError: It gave NaN before anything was known of it.
    """
    try:
        return run()
    except NumericalError as error:
        if error.info is None:
            raise
        return Unfinished(error.info, str(error))


def header_of(
    pipe: Pipeline, fingerprints: Mapping[str, Mapping[str, str]], result: Result | Unfinished
) -> Header:
    """What made a result of a pipeline whose weights have these fingerprints."""
    info = result.info
    return Header(
        model=info["model"],
        backend=info["backend"],
        dtype=info["dtype"],
        device=info["device"],
        request=info["request"],
        environment=environment(info),
        fingerprints=fingerprints,
        timings_s=info["timings_s"],
        warnings=tuple(info["warnings"]),
        embedding=_embedding(pipe, result.images, info["request"]),
        unfinished=result.why if isinstance(result, Unfinished) else "",
    )


def _embedding(pipe: Pipeline, images: Any, request: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Of the finished picture, by the encoder of the first image prompt."""
    prompts = request["image_prompts"]
    if not prompts or not len(images) or not isinstance(images[0], Image.Image):
        return None
    try:
        rows = pipe.embed_images(images[:1], prompts[0]["adapter"])
    except RequestError:  # an adapter of faces has no such encoder
        return None
    return tuple(float(value) for value in rows[0])
