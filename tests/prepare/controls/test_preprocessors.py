"""Edges as steps of colour, held to the rule that the demo's ControlNet was trained with."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ipa import RequestError
from ipa.prepare.controls.preprocessors import edges
from oracle.controlled import outline


def test_they_are_those_of_the_training(references: list[Image.Image]) -> None:
    for picture in references:
        assert np.array_equal(edges(picture), outline(picture))


def test_what_a_threshold_means(draw: np.random.Generator) -> None:
    """Held to the definition, pixel by pixel, in every channel."""
    values = draw.integers(0, 256, (5, 7, 3), np.uint8)
    for threshold in (0.0, 0.3, 1.0):
        found = np.asarray(edges(values, threshold))[..., 0] > 0
        for (row, column), is_edge in np.ndenumerate(found):
            near = [values[row, column + 1 : column + 2], values[row + 1 : row + 2, column]]
            steps = [
                abs(int(a) - int(b))
                for p in near
                for q in p
                for a, b in zip(q, values[row, column], strict=True)
            ]
            assert is_edge == (max(steps, default=0) > threshold * 255)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "0.1", True])
def test_thresholds_that_are_none(threshold: object, references: list[Image.Image]) -> None:
    with pytest.raises(RequestError, match="from 0 to 1"):
        edges(references[0], threshold)  # type: ignore[arg-type]
