"""Numbers that are allowed and hardly meant: a weight of 70, where others mean percent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ipa.checks import is_finite
from ipa.request.request import Request

LARGEST_WEIGHT = 2.0
"""The largest usual weight: 0 to 1 is usual, and pictures fall apart beyond 2."""

LARGEST_GUIDANCE = 50.0
"""The largest usual guidance scale: 1 to 15 is usual."""


def unusual_numbers(request: Request, scales: Mapping[str, object] | None = None) -> list[str]:
    """Warnings for weights and guidance that are far from what is usual.

    Args:
        request: The call.
        scales: The default weights of what is loaded, by the adapter's name: for image prompts
            that have none of their own.
    """
    warnings = list[str]()
    for number, prompt in enumerate(request.image_prompts, start=1):
        scale: object = prompt.scale
        if scale is None and scales is not None:
            only = next(iter(scales.values()), None) if len(scales) == 1 else None
            scale = scales.get(prompt.adapter, only) if prompt.adapter else only
        warnings += _of_weight(f"image prompt {number}", scale)
    for number, control in enumerate(request.controls, start=1):
        warnings += _of_weight(f"control {number}", control.scale)
    guidance = request.guidance_scale
    if is_finite(guidance) and not 0.0 <= guidance <= LARGEST_GUIDANCE:
        warnings.append(f"guidance {guidance:g}: 1 to 15 is usual")
    return warnings


def _of_weight(where: str, scale: object) -> Iterator[str]:
    """A warning for the first number of a scale that is too large."""
    for number in _numbers(scale):
        if abs(number) > LARGEST_WEIGHT:
            guess = f"; did you mean {number / 100:g}?" if 5 <= abs(number) <= 100 else ""
            yield f"{where}, weight {number:g}: 0 to 1 is usual{guess}"
            return


def _numbers(scale: object) -> Iterator[float]:
    if is_finite(scale):
        yield float(scale)
    elif isinstance(scale, Mapping):
        for value in scale.values():
            yield from _numbers(value)
    elif isinstance(scale, (list, tuple)):
        for value in scale:
            yield from _numbers(value)
