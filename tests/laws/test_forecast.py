"""What must hold of forecast features on every backend; trajectories are held to a restatement."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import Cancelled, ImagePrompt, RequestError
from ipa.pipeline.previews import latent_colours
from ipa.prepare.images.pictures import to_pil
from oracle import controlled, models
from oracle.measure import relative

CALL: dict[str, Any] = {
    "num_inference_steps": 6,
    "guidance_scale": 3.0,
    "width": 32,
    "height": 32,
    "seed": 4,
    "output_type": "latent",
}
SAVING: dict[str, Any] = {"forecast": True, "forecast_window": 3.0, "forecast_warmup": 2}
FORECAST = (2, 3, 5)
"""The steps of six that are forecast then."""
EDGES = Image.fromarray(controlled.edges((32, 32), 1))


class Names(list[str]):
    """A tap: the stages of a run."""

    def wants(self, stage: str) -> bool:
        return True

    def __call__(self, stage: str, array: np.ndarray) -> None:
        self.append(stage)

    def at(self, step: int) -> set[str]:
        head = f"step.{step:03d}/"
        return {name.removeprefix(head) for name in self if name.startswith(head)}


@pytest.fixture(scope="module")
def opened(tiny: Path, open_pipeline: Any) -> dict[str, ipa.Pipeline]:
    return {name: open_pipeline(tiny, name, "linear", "plus") for name in ("mlx", "torch")}


@pytest.fixture
def pipe(backend: str, opened: dict[str, ipa.Pipeline]) -> ipa.Pipeline:
    return opened[backend]


def test_off_is_as_before(
    pipe: ipa.Pipeline, references: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and nothing is kept; nor where no step is left to forecast."""
    prompt = ImagePrompt(references[0], adapter="linear", scale=0.7)
    plain = pipe("a star", image_prompts=prompt, **CALL)
    found = pipe("a star", image_prompts=prompt, **SAVING, **CALL)
    assert not np.allclose(found.latents, plain.latents, atol=1e-3)
    assert found.info["forecast_steps"] == 3 and "forecast_steps" not in plain.info
    monkeypatch.delattr("ipa.pipeline.plan.PastFeatures")
    off = pipe("a star", image_prompts=prompt, forecast_window=9, forecast_warmup=1, **CALL)
    assert np.array_equal(off.latents, plain.latents)
    early = pipe("a star", image_prompts=prompt, forecast=True, forecast_warmup=6, **CALL)
    assert np.array_equal(early.latents, plain.latents)
    assert early.info["forecast_steps"] == 0
    assert "each of 6 steps is computed" in " ".join(early.info["warnings"])
    with pytest.raises(NameError):
        pipe("a star", **SAVING, **CALL)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({}, 3),
        ({"forecast_window": 2}, 2),
        ({"forecast_window": 1, "forecast_growth": 0}, 0),
        ({"scheduler": "heun"}, 7),  # of 11 evaluations
        ({"guidance_start": 0.5}, 2),  # step 2, and 5: guided ones begin anew at 3
        ({"guidance_end": 0.5}, 3),
        ({"guidance_scale": 1.0}, 3),
    ],
)
def test_a_run_says_how_many_steps_are_forecast(
    pipe: ipa.Pipeline, arguments: dict[str, Any], count: int
) -> None:
    call = CALL | SAVING | arguments
    found, again = pipe("a star", **call), pipe("a star", **call)
    assert found.info["forecast_steps"] == count
    assert found.info["request"]["forecast"] is True
    assert np.array_equal(found.latents, again.latents)


def test_two_runs_do_not_mix(
    pipe: ipa.Pipeline, references: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step in turn, were they let; nor does one that was cancelled leave anything."""
    calls: list[dict[str, Any]] = [
        {"image_prompts": ImagePrompt(references[0], adapter="linear"), **SAVING, **CALL},
        {"guidance_scale": 1.0, **SAVING, **{k: v for k, v in CALL.items() if k[0] != "g"}},
    ]
    alone = [pipe("a star", **call).latents for call in calls]
    asked = iter([False] * 4 + [True] * 9)
    with pytest.raises(Cancelled):
        pipe("a circle", cancel=lambda: next(asked), **calls[0])
    monkeypatch.setattr("ipa.pipeline.loaded.Loaded.owned", lambda self, *_, **__: nullcontext())
    runs = zip_longest(*(pipe.stream("a star", **call) for call in calls))
    last = [event for pair in runs for event in pair if event is not None and event.result]
    found = {event.result.info["request"]["guidance_scale"]: event.result for event in last}
    assert np.array_equal(found[3.0].latents, alone[0])
    assert np.array_equal(found[1.0].latents, alone[1])


def test_weights_of_a_forecast_step_have_no_effect(
    pipe: ipa.Pipeline, references: list[Image.Image]
) -> None:
    """What a curve gives at steps that are forecast; those that are computed see theirs."""
    without = pipe("a star", **SAVING, **CALL).latents
    for shown, acts in ((FORECAST, False), ((4,), True)):
        weights = {step: 1.0 if step in shown else 0.0 for step in range(6)}
        found = pipe(
            "a star",
            image_prompts=ImagePrompt(references[0], adapter="linear"),
            weights=lambda step, _, weights=weights: {0: weights[step]},
            **SAVING,
            **CALL,
        ).latents
        assert np.array_equal(found, without) is not acts


@pytest.mark.parametrize(
    "own",
    [
        {"guidance_end": 0.6, "num_images": 2},
        {"guidance_start": 0.3, "guidance_end": 0.8},
        {"scheduler": "heun", "guidance_end": 0.5},
        {"image": EDGES.convert("RGB"), "strength": 0.7, "num_inference_steps": 9},
    ],
)
def test_both_backends_are_one(
    opened: dict[str, ipa.Pipeline], references: list[Image.Image], own: dict[str, Any]
) -> None:
    """Masks, curves and windows of two adapters; an interval of guidance; from a picture."""
    prompts = [
        ImagePrompt(references[0], adapter="linear", mask=np.tri(32), curve="fade_out"),
        ImagePrompt(references[1], adapter="plus", scale=0.5, start=0.25, end=0.8),
    ]
    call = CALL | SAVING | own
    results = [opened[name]("a star", image_prompts=prompts, **call) for name in ("mlx", "torch")]
    assert {result.info["forecast_steps"] > 0 for result in results} == {True}
    assert relative(results[0].latents, results[1].latents) < 1e-5


def test_influence_of_a_forecast_step_is_that_of_the_last_computed_one(
    opened: dict[str, ipa.Pipeline], references: list[Image.Image]
) -> None:
    prompt = ImagePrompt(references[0], adapter="linear", scale=0.7)
    for pipe in opened.values():
        plain = pipe("a star", image_prompts=prompt, **SAVING, **CALL)
        found = pipe("a star", image_prompts=prompt, influence=True, **SAVING, **CALL)
        assert np.array_equal(plain.latents, found.latents)
        assert found.influence is not None and found.influence.steps == 6
        for shares in found.influence.shares:
            for step in range(1, 6):
                is_same = np.array_equal(shares[step], shares[step - 1])
                assert is_same is (step in FORECAST)


def test_a_forecast_step_computes_the_end_of_the_network_alone(
    opened: dict[str, ipa.Pipeline], references: list[Image.Image]
) -> None:
    """And the same stages on both backends; a tap changes no bit."""
    prompt = ImagePrompt(references[0], adapter="linear", scale=0.7)
    for pipe in opened.values():
        seen = Names()
        watched = pipe("a star", image_prompts=prompt, tap=seen, **SAVING, **CALL)
        unwatched = pipe("a star", image_prompts=prompt, **SAVING, **CALL)
        assert np.array_equal(watched.latents, unwatched.latents)
        for step in range(6):
            of_network = {name for name in seen.at(step) if name.startswith("unet.")}
            end = {"unet.conv_norm_out", "unet.conv_out.input", "unet.conv_out"}
            assert end <= of_network
            assert (of_network == end) is (step in FORECAST)


def test_a_controlnet_is_not_run_at_a_forecast_step(
    backend: str, tiny: Path, open_pipeline: Any, tmp_path: Path
) -> None:
    controlled.write_controlnet(tmp_path / "net", models.UNET, seed=3)
    pipe = open_pipeline(tiny, backend)
    pipe.load_controlnet(tmp_path / "net")
    seen, control = Names(), ipa.Control(EDGES, name="net")
    pipe("a star", controls=control, tap=seen, **SAVING, **CALL)
    for step in range(6):
        is_run = any(name.startswith("controlnet.net.") for name in seen.at(step))
        assert is_run is (step not in FORECAST)


class Estimates(list[np.ndarray]):
    """A tap: the denoised estimate of every step."""

    def wants(self, stage: str) -> bool:
        return stage.endswith("/denoised")

    def __call__(self, stage: str, array: np.ndarray) -> None:
        self.append(array)


@pytest.mark.parametrize("saving", [SAVING, {"cache_interval": 2, "cache_branch": 1}])
def test_previews_are_of_every_step(pipe: ipa.Pipeline, saving: dict[str, Any]) -> None:
    """Each of its own estimate, and they change no bit; also where the deep part is reused."""
    backend, estimates, events = pipe._loaded.backend, Estimates(), list[ipa.Progress]()
    plain = pipe("a star", **saving, **CALL)
    call = saving | CALL | {"preview": "latent"}
    found = pipe("a star", tap=estimates, on_progress=events.append, **call)
    assert np.array_equal(found.latents, plain.latents)
    shown = [event.preview for event in events if event.stage == "denoise"]
    for preview, estimate in zip(shown, estimates, strict=True):
        colours = latent_colours(
            backend.model.vae, estimate, lambda x: backend.decode(backend.from_numpy(x))
        )
        (wanted,) = to_pil(colours.pictures(estimate))
        assert preview is not None and preview.tobytes() == wanted.tobytes()
    assert len(shown) == 6
    assert not any(np.array_equal(a, b) for a, b in pairwise(estimates))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"forecast": 1}, "forecast must be True or False"),
        ({"forecast_window": 0.5}, "forecast_window must be a number from 1 to 1000"),
        ({"forecast_window": float("inf")}, "forecast_window must be a number"),
        ({"forecast_growth": -0.1}, "forecast_growth must be a number from 0"),
        ({"forecast_growth": "1"}, "forecast_growth must be a number"),
        ({"forecast_warmup": 0}, "forecast_warmup must be an integer from 1"),
        ({"forecast": True, "cache_interval": 2}, "two ways"),
    ],
)
def test_what_does_not_fit_is_refused(
    pipe: ipa.Pipeline, arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(RequestError, match=match):
        pipe("a star", **(CALL | arguments))
