"""How much a picture is like its reference, and the scale from which more brings no more of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.errors import RequestError
from ipa.request.image_prompt import ImagePrompt

if TYPE_CHECKING:
    from ipa.pipeline.pipeline import Pipeline

Units: TypeAlias = npt.NDArray[np.float64]
"""Embeddings (N, P), each of length 1."""

MIN_SCALES = 2
SHARE = 0.95
"""The part of the largest gain in likeness that a suggested scale reaches."""

LEAST_GAIN = 0.05
"""The least gain of a cosine that is a reason to prefer one scale to another."""


class Likeness:
    """Cosines to reference pictures, by the image encoder of the adapter that reads them."""

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe = pipe
        # By identity; the pictures are kept beside, so that no other takes their place in memory.
        self._known: dict[tuple[object, ...], tuple[object, Units | None]] = {}

    def of(self, image: Image.Image, prompt: ImagePrompt | None) -> float | None:
        """The mean cosine to the pictures of an image prompt, as its encoder sees them.

        None where there are no pictures, or the adapter has no encoder of whole pictures.
        """
        if prompt is None or not prompt.images:
            return None
        key = (*map(id, prompt.images), prompt.adapter, prompt.fit)
        if key not in self._known:
            self._known[key] = prompt, self._reference(prompt)
        reference = self._known[key][1]
        if reference is None:
            return None
        made = _units(self._pipe.embed_images([image], prompt.adapter))
        return float((reference @ made[0]).mean())

    def _reference(self, prompt: ImagePrompt) -> Units | None:
        try:
            views = self._pipe.encoder_views(replace(prompt, sharpen=0.0))
            return _units(self._pipe.embed_images(views, prompt.adapter))
        except RequestError:  # no adapter, or one of faces, which has no such encoder
            return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """A scale, or why there is none.

    Attributes:
        scale: The smallest of those that were tried at which likeness has gained SHARE of what it
            gains at most; None where that cannot be said.
        reason: In words, for a person.
        likeness: The mean likeness at each scale, in order.
        pictures: How many were behind each mean.
    """

    scale: float | None
    reason: str
    likeness: tuple[tuple[float, float], ...]
    pictures: int


def suggest_scale(measured: Sequence[tuple[float, float]]) -> Suggestion:
    """Suggest the scale beyond which likeness hardly grows, from (scale, likeness) of pictures.

    The gain is the mean likeness at a scale, less that at 0. What words ask for is not weighed: a
    prompt is followed less, the larger the scale.
    """
    scales = sorted({scale for scale, _ in measured})
    of_each = [[value for at_scale, value in measured if at_scale == scale] for scale in scales]
    means = [sum(values) / len(values) for values in of_each]
    count = min((len(values) for values in of_each), default=0)
    points = tuple(zip(scales, means, strict=True))

    def answer(reason: str, scale: float | None = None) -> Suggestion:
        return Suggestion(scale=scale, reason=reason, likeness=points, pictures=count)

    if 0.0 not in scales or sum(scale > 0.0 for scale in scales) < MIN_SCALES:
        return answer("which needs 0 and two larger scales among those that are swept")
    before = means[scales.index(0.0)]
    gains = [(scale, mean - before) for scale, mean in points if scale > 0.0]
    most = max(gain for _, gain in gains)
    if most < LEAST_GAIN:
        return answer(f"for none brings {LEAST_GAIN:g} more of likeness")
    first, gain = next((scale, gain) for scale, gain in gains if gain >= SHARE * most)
    words = f"likeness {before:.2f} at 0, {before + gain:.2f} at {first:g}"
    if first == scales[-1]:
        return answer(f"for likeness still rises at the largest scale that was tried ({words})")
    return answer(
        f"the smallest that reaches {SHARE:.0%} of the gain in likeness ({words}, "
        f"at most {before + most:.2f})",
        first,
    )


def _units(embeddings: npt.NDArray[np.float32]) -> Units:
    wide = embeddings.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=-1, keepdims=True))
