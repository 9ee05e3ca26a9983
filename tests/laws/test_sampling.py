"""What must hold of samplers and guidance on every backend, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa.errors import RequestError

CALL: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "width": 32,
    "height": 32,
    "seed": 4,
    "output_type": "latent",
}


@pytest.fixture(scope="module")
def pipe(backend: str, tiny: Any, open_pipeline: Any) -> ipa.Pipeline:
    return open_pipeline(tiny, backend, "linear")


@pytest.mark.parametrize(("name", "rows"), [("heun", 5), ("pndm", 4), ("dpmpp_sde", 3)])
def test_a_run_counts_evaluations_and_can_be_made_again(
    pipe: ipa.Pipeline, references: list[Image.Image], name: str, rows: int
) -> None:
    prompt = ipa.ImagePrompt(references[0], scale=0.7, mask=np.tri(32), end=0.7)
    events = list(pipe.stream("a star", image_prompts=prompt, scheduler=name, **CALL))
    steps = [(e.step, e.total) for e in events if e.stage == "denoise"]
    assert steps == [(n + 1, rows) for n in range(rows)]
    result = events[-1].result
    assert result is not None
    request = result.info["request"]
    assert request["num_inference_steps"] == 3 and request["scheduler"] == name
    several = pipe("a star", image_prompts=prompt, scheduler=name, **(CALL | {"num_images": 2}))
    # The order of sums in a larger batch: measured 4.6e-6 of the largest (heun, torch).
    off = np.abs(several.latents[:1] - result.latents).max()
    assert off < 1e-5 * np.abs(result.latents).max()
    again = pipe("a star", image_prompts=prompt, scheduler=request["scheduler"], **CALL)
    assert np.array_equal(again.latents, result.latents)


class Rows(dict[str, int]):
    """A tap: how many rows the network's output has, by stage."""

    def wants(self, stage: str) -> bool:
        return stage.endswith("/prediction")

    def __call__(self, stage: str, array: np.ndarray) -> None:
        self[stage] = len(array)


def test_outside_the_interval_half_is_not_computed(
    pipe: ipa.Pipeline, references: list[Image.Image]
) -> None:
    """What of a run is alone is as without guidance, but for the order of sums in smaller batches.

    Measured, relative to the largest latent: 4.4e-7.
    """
    prompt = ipa.ImagePrompt(references[0], scale=0.7, mask=np.tri(32))
    part, rows = {"guidance_start": 0.5, "guidance_end": 0.8}, Rows()
    call = CALL | {"num_inference_steps": 5, "scheduler": "euler"}
    found = pipe("a star", image_prompts=prompt, tap=rows, **part, **call)
    assert [*rows.values()] == [1, 1, 2, 2, 1]
    assert {k: found.info["request"][k] for k in part} == part
    assert np.array_equal(
        pipe("a star", image_prompts=prompt, **part, **call).latents, found.latents
    )
    alone = pipe("a star", image_prompts=prompt, **(call | {"guidance_scale": 1.0})).latents
    assert not np.allclose(found.latents, alone, atol=1e-2)
    never = {"guidance_start": 0.5, "guidance_end": 0.55}
    nearly = pipe("a star", image_prompts=prompt, **never, **call)
    assert np.abs(nearly.latents - alone).max() < 2e-6 * np.abs(alone).max()
    assert "leave none of 5 steps" in " ".join(nearly.info["warnings"])
    unguided = pipe("a star", **part, **(call | {"guidance_scale": 1.0}))
    assert "have no effect" in " ".join(unguided.info["warnings"])


def test_influence_outside_the_interval(pipe: ipa.Pipeline, references: list[Image.Image]) -> None:
    """Shares are of the conditional half, which every step computes."""
    prompt = ipa.ImagePrompt(references[0], scale=0.7)
    found = pipe("a star", image_prompts=prompt, influence=True, guidance_end=0.4, **CALL)
    assert found.influence is not None and found.influence.steps == 3
    assert min(found.influence.mean(0, steps=[step]) for step in range(3)) > 0.01


def test_neutral_values_are_as_if_left_out(pipe: ipa.Pipeline) -> None:
    plain = pipe("a star", **CALL)
    neutral = pipe(
        "a star",
        guidance_rescale=0.0,
        guidance_start=0.0,
        guidance_end=1.0,
        eta=0.0,
        timestep_spacing=None,
        **CALL,
    )
    assert np.array_equal(neutral.latents, plain.latents)
    rescaled = pipe("a star", guidance_rescale=0.5, **CALL)
    assert not np.allclose(rescaled.latents, plain.latents)
    assert rescaled.info["request"]["guidance_rescale"] == 0.5
    unguided = CALL | {"guidance_scale": 1.0}
    alone = pipe("a star", **unguided).latents
    assert np.array_equal(pipe("a star", guidance_rescale=0.5, **unguided).latents, alone)


def test_usual_guidance_is_recorded(pipe: ipa.Pipeline) -> None:
    usual = pipe("a star", **(CALL | {"guidance_scale": None}))
    assert usual.info["request"]["guidance_scale"] == 7.5
    said = pipe("a star", **(CALL | {"guidance_scale": 7.5}))
    assert np.array_equal(said.latents, usual.latents)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"guidance_rescale": 1.5}, "guidance_rescale"),
        ({"guidance_rescale": float("nan")}, "guidance_rescale"),
        ({"guidance_start": -0.1}, "guidance_start must be a number from 0 to 1"),
        ({"guidance_end": 1.1}, "guidance_end must be a number from 0 to 1"),
        ({"guidance_start": 0.5, "guidance_end": 0.5}, "must be more than guidance_start"),
        ({"guidance_start": 1.0}, "must be more than guidance_start"),
        ({"eta": -0.1}, "eta"),
        ({"eta": 0.5, "scheduler": "euler"}, "takes no eta"),
        ({"timestep_spacing": "sgm_uniform"}, "timestep_spacing"),
        ({"scheduler": "dpmpp_3m_sde"}, "did you mean 'dpmpp_2m_sde'"),
        ({"scheduler": "lcm", "num_inference_steps": 60}, "at most 50"),
    ],
)
def test_what_does_not_fit_is_refused(
    pipe: ipa.Pipeline, arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(RequestError, match=match):
        pipe("a star", **(CALL | arguments))
