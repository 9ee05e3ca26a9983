"""A run of a pipeline, recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from ipa.contract.errors import RequestError
from ipa.contract.result import Progress, Result

from .capture import Capture, Header
from .choice import Choice
from .collector import Collector
from .environment import environment

if TYPE_CHECKING:
    from ipa.pipeline import Pipeline
    from ipa.run import CancelSignal

_EVERYTHING = Choice()


def capture(
    pipe: Pipeline,
    arguments: Mapping[str, Any],
    choice: Choice = _EVERYTHING,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelSignal | None = None,
) -> Capture:
    """Make a picture and keep what was computed on the way.

    Args:
        pipe: The pipeline; its weights are read from their files again, to be hashed.
        arguments: Those of a call, for one picture.
        choice: What to keep.
        on_progress: Called with every event, in this thread.
        cancel: Asked between steps whether to stop.

    Raises:
        RequestError: An argument cannot be honoured, more than one picture is asked for, or a
            pattern or step of the choice is of no stage.
        CaptureError: The budget is too small.
    """
    known = pipe.fingerprints()
    collector = Collector(choice)
    result = pipe(**arguments, tap=collector, on_progress=on_progress, cancel=cancel)
    collector.check()
    return Capture(header_of(pipe, known, result), collector.stages)


def header_of(
    pipe: Pipeline, fingerprints: Mapping[str, Mapping[str, str]], result: Result
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
