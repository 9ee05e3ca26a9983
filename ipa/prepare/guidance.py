"""How strong guidance is, and whether a network is told of it instead of run twice."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from ipa.model.folder import ModelFolder
from ipa.request.request import Request

_USUAL = 7.5
_USUAL_XL = 5.0
_USUAL_TOLD = 8.5  # diffusers' LatentConsistencyModelPipeline


def guidance_scale(request: Request, model: ModelFolder) -> float:
    """The request's guidance scale, or the default of diffusers' pipeline for such a model."""
    if request.guidance_scale is not None:
        return float(request.guidance_scale)
    if model.is_xl:
        return _USUAL_XL
    return _USUAL if model.unet.guidance_width is None else _USUAL_TOLD


def is_guided(request: Request, model: ModelFolder) -> bool:
    """Whether the unconditional half is computed: not where the network takes the scale itself."""
    return request.guided and model.unet.guidance_width is None


def guided_steps(
    request: Request, model: ModelFolder, evaluations: int, seconds: Collection[int] = ()
) -> tuple[bool, ...]:
    """Whether the unconditional half is computed, at each evaluation of a run.

    An interval is one of evaluations, but no step is split by it: `seconds` are those that are the
    second of a step, and each does as the first.

    Source: the steps skipped by diffusers' `guiders.ClassifierFreeGuidance`.
    """
    first, last = (int(x * evaluations) for x in (request.guidance_start, request.guidance_end))
    is_on = is_guided(request, model)
    firsts = (number - (number in seconds) for number in range(evaluations))
    return tuple(is_on and first <= number < last for number in firsts)


def guidance_embedding(scale: float, model: ModelFolder) -> npt.NDArray[np.float32] | None:
    """The guidance embedding (1, width): the sinusoid of scale − 1; None for most models.

    Source: get_guidance_scale_embedding of diffusers' pipelines. Rounded to float32 where that
    rounds, each function exact before its rounding: one bit of a frequency is worth 4e-4.
    """
    width = model.unet.guidance_width
    if width is None:
        return None
    half = width // 2
    slope = np.float32(math.log(10000.0)) / np.float32(half - 1)
    exponents = np.arange(half, dtype=np.float32) * -slope
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = (np.float32(scale - 1.0) * np.float32(1000.0) * frequencies).astype(np.float64)
    row = np.concatenate([np.sin(angles), np.cos(angles)]).astype(np.float32)
    return np.pad(row, (0, width % 2))[None]


def guidance_warnings(request: Request, model: ModelFolder, guided: Sequence[bool]) -> list[str]:
    """Warnings about what of a request's guidance has no effect."""
    is_part = request.guidance_start > 0.0 or request.guidance_end < 1.0
    names = [
        *(["negative_prompt"] if request.negative_prompt else []),
        *(["guidance_start", "guidance_end"] if is_part else []),
    ]
    if model.unet.guidance_width is not None and names:
        having = f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} no effect"
        return [f"This model takes the guidance scale as an input: {having}."]
    if is_part and not request.guided:
        return ["There is no guidance: guidance_start and guidance_end have no effect."]
    if is_part and not any(guided):
        return [
            f"guidance_start and guidance_end leave none of {len(guided)} steps: nothing is guided."
        ]
    return []
