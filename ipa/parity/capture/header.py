"""The header of a capture: model, request, machine, and how the run ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from ipa.errors import NumericalError, RequestError
from ipa.request.result import Result

from .capture import Header
from .environment import environment

if TYPE_CHECKING:
    from ipa.pipeline.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run that ended early, because numbers were lost: `info` as of a result, and why."""

    info: Mapping[str, Any]
    why: str
    images: tuple[()] = ()


def finished(run: Callable[[], Result]) -> Result | Unfinished:
    """Make a run: its result, or an `Unfinished` for one that gave NaN.

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
    """The header for a result of a pipeline whose weights have these fingerprints."""
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
    """The embedding of the finished picture, by the encoder of the first image prompt."""
    prompts = request["image_prompts"]
    if not prompts or not len(images) or not isinstance(images[0], Image.Image):
        return None
    try:
        rows = pipe.embed_images(images[:1], prompts[0]["adapter"])
    except RequestError:  # an adapter of faces has no such encoder
        return None
    return tuple(float(value) for value in rows[0])
