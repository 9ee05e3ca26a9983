"""The picture steers: the demo model follows references that it has never seen, on both backends.

Thresholds from 100 references with stock diffusers, 8 steps (demo_model.md, section 5): at scale 1
the likeness to the own reference was .90 on average and .17 to the others, at scale 0 both were
.16; the worst border colour was .044 away at scale 1, and .31 on average at scale 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import ImagePrompt, demo
from oracle.judge import Reference, border_colour, clip_embeddings

SCALES = (0.0, 0.5, 1.0)
Made = dict[float, list[Image.Image]]


@pytest.fixture(scope="module")
def chosen() -> list[Reference]:
    """One reference per background, so that the border tells them apart."""
    by_background = {reference.words["background"]: reference for reference in Reference.all()}
    return list(by_background.values())


@pytest.fixture(scope="module")
def made(backend: str, chosen: list[Reference], open_pipeline: Callable[..., ipa.Pipeline]) -> Made:
    pipe = open_pipeline("demo", backend)
    pipe.load_ip_adapter(demo.adapter("base"))
    return {
        scale: [
            pipe(
                image_prompts=[ImagePrompt(reference.image, scale=scale)],
                num_inference_steps=8,
                guidance_scale=4.0,
                seed=seed,
            ).images[0]
            for seed, reference in enumerate(chosen)
        ]
        for scale in SCALES
    }


@pytest.fixture(scope="module")
def cosines(made: Made, chosen: list[Reference]) -> dict[float, np.ndarray]:
    """[picture, reference] for each scale."""
    targets = clip_embeddings([reference.image for reference in chosen])
    return {scale: clip_embeddings(images) @ targets.T for scale, images in made.items()}


def own_and_others(matrix: np.ndarray) -> tuple[float, float]:
    own = np.eye(len(matrix), dtype=bool)
    return float(matrix[own].mean()), float(matrix[~own].mean())


def test_scale_one_follows_the_own_reference(cosines: dict[float, np.ndarray]) -> None:
    own, others = own_and_others(cosines[1.0])
    assert own > 0.75
    assert own > others + 0.4


def test_scale_zero_follows_nobody(cosines: dict[float, np.ndarray]) -> None:
    own, others = own_and_others(cosines[0.0])
    assert abs(own - others) < 0.15


def test_likeness_grows_with_scale(cosines: dict[float, np.ndarray]) -> None:
    means = [own_and_others(cosines[scale])[0] for scale in SCALES]
    assert means[0] < means[1] < means[2]


def test_border_takes_the_colour_of_the_reference(made: Made, chosen: list[Reference]) -> None:
    for image, reference in zip(made[1.0], chosen, strict=True):
        distance = np.abs(border_colour(image) - border_colour(reference.image)).mean()
        assert distance < 0.08, reference.words


def test_every_picture_is_nearest_to_its_own_reference(cosines: dict[float, np.ndarray]) -> None:
    """So swapping the references swaps the pictures."""
    assert np.array_equal(cosines[1.0].argmax(axis=1), np.arange(len(cosines[1.0])))
