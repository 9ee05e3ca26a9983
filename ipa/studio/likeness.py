"""How like pictures are to what they were made of, by the image encoder: for the dial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool

from ipa.errors import RequestError, shown
from ipa.pipeline.pipeline import Pipeline
from ipa.prepare.images.pictures import open_image
from ipa.serve.asked import make_job
from ipa.serve.dialects.native import read_job
from ipa.sheets.likeness import Likeness, suggest_scale

from .studio import Studio

_MOST = 32


async def likeness(studio: Studio, body: Mapping[str, Any]) -> dict[str, Any]:
    """The likeness of pictures of a studio to a job's image prompt.

    Args:
        studio: Whose pictures.
        body: {"job": whose image prompt `prompt` is meant, "names": of pictures, "scales": their
            weights}.

    Returns:
        "likeness": cosines in [-1, 1], one for each name, or None where the adapter cannot tell;
        "enough": the smallest weight that reaches most of what can be had, or None, and the
        "reason" in words.

    Raises:
        RequestError: There are no such pictures.
    """
    names, scales = _listed(body, "names"), _listed(body, "scales")
    number = body.get("prompt", 0)
    if len(names) != len(scales):
        raise RequestError("names and scales are lists of one length", found=shown(names))
    asked = read_job(body.get("job") or {})
    images = await run_in_threadpool(lambda: [open_image(studio.folder.path(n)) for n in names])
    desk = studio.desk
    job = await run_in_threadpool(make_job, asked, desk.offers, desk.shelf, desk.limits)
    prompts = job.arguments.get("image_prompts") or ()
    if not isinstance(number, int) or not 0 <= number < len(prompts):
        raise RequestError("the job has no such image prompt", found=shown(number))

    def measured(pipeline: Pipeline) -> list[float | None]:
        found = Likeness(pipeline)
        return [found.of(image, prompts[number]) for image in images]

    measures = await desk.engine.call(job.needs, measured)
    pairs = [(float(at), one) for at, one in zip(scales, measures, strict=True) if one is not None]
    found = suggest_scale(pairs)
    return {"likeness": measures, "enough": found.scale, "reason": found.reason}


def _listed(body: Mapping[str, Any], name: str) -> list[Any]:
    value = body.get(name)
    if not isinstance(value, list) or not 0 < len(value) <= _MOST:
        raise RequestError(
            f"{name} is a list", found=shown(value), remedy=f"of 1 to {_MOST} entries"
        )
    return value
