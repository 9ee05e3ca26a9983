"""Laws that every backend obeys (design §5), on a random model in which every tensor differs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import ImagePrompt, Pipeline
from oracle.measure import relative

Open = Callable[..., Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "width": 64,
    "height": 48,
    "output_type": "latent",
    "seed": 5,
}
# Where only the order of sums changes, relative L2 of the latents: measured 1.2e-6 on
# both backends.
ROUNDING = 5e-6


@pytest.fixture(scope="module", params=["tiny", "tiny_xl"])
def tiny(request: pytest.FixtureRequest) -> Path:
    """Each law holds for Stable Diffusion 1.x and for SDXL."""
    return Path(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def pipe(tiny: Path, backend: str, open_pipeline: Open) -> Pipeline:
    """Two adapters; the tests of this module do not change it."""
    return open_pipeline(tiny, backend, "linear", "plus")


@pytest.fixture(scope="module")
def base(tiny: Path, backend: str, open_pipeline: Open) -> np.ndarray:
    """What the base model gives, on a pipeline that never saw an adapter."""
    return open_pipeline(tiny, backend)("a star", **CALL).latents


def run(pipe: Pipeline, *prompts: ImagePrompt, **changes: Any) -> np.ndarray:
    return pipe("a star", image_prompts=prompts, **(CALL | changes)).latents


def prompt(image: Image.Image, adapter: str = "linear", **options: Any) -> ImagePrompt:
    return ImagePrompt(image, adapter=adapter, **options)


def test_scale_zero_is_the_base_model(pipe: Pipeline, base: np.ndarray, references: list) -> None:
    zero = {"down": 0.0, "mid": 0.0, "up": {"block_0": [0.0, 0.0, 0.0]}}
    out = run(pipe, prompt(references[0], scale=0.0), prompt(references[1], "plus", scale=zero))
    assert np.array_equal(out, base)
    assert not np.array_equal(run(pipe, prompt(references[0], scale=0.1)), base)


def test_no_image_prompt_is_the_base_model(pipe: Pipeline, base: np.ndarray) -> None:
    assert np.array_equal(run(pipe), base)


def test_closed_window_is_the_base_model(pipe: Pipeline, references: list) -> None:
    """No step of three lies inside [0.4, 0.6]; the second does inside [0.3, 0.7]."""
    three = {"num_inference_steps": 3}
    base = run(pipe, **three)
    assert np.array_equal(run(pipe, prompt(references[0], start=0.4, end=0.6), **three), base)
    assert not np.array_equal(run(pipe, prompt(references[0], start=0.3, end=0.7), **three), base)


def test_open_window_is_no_window(pipe: Pipeline, references: list) -> None:
    whole = run(pipe, prompt(references[0], start=0.0, end=1.0))
    assert np.array_equal(whole, run(pipe, prompt(references[0])))


def test_unloaded_adapter_is_the_base_model(
    tiny: Path, backend: str, open_pipeline: Open, base: np.ndarray, references: list
) -> None:
    own = open_pipeline(tiny, backend, "linear")
    with_adapter = run(own, prompt(references[0]))
    own.unload_ip_adapter("linear")
    assert np.array_equal(run(own), base)
    own.load_ip_adapter(tiny / "linear.safetensors", name="linear")
    assert np.array_equal(run(own, prompt(references[0])), with_adapter)


def test_order_of_adapters_does_not_matter(pipe: Pipeline, references: list) -> None:
    one, two = prompt(references[0], scale=0.7), prompt(references[1], "plus", scale=0.4)
    there, back = run(pipe, one, two), run(pipe, two, one)
    assert relative(there, back) < ROUNDING


def test_pictures_of_one_prompt_are_attended_to_jointly(pipe: Pipeline, references: list) -> None:
    """The same picture twice is the same picture once: softmax over doubled tokens."""
    once = run(pipe, prompt(references[0]))
    twice = run(pipe, prompt([references[0], references[0]]))
    assert relative(twice, once) < ROUNDING


def test_batch_is_single_runs(pipe: Pipeline, references: list) -> None:
    """Each picture of a batch can be made again alone, also with a sampler that draws noise."""
    image = prompt(references[0], scale=0.8)
    batch = run(pipe, image, num_images=3, scheduler="euler_ancestral")
    for number in range(3):
        alone = run(pipe, image, seed=CALL["seed"] + number, scheduler="euler_ancestral")
        assert relative(batch[number], alone[0]) < ROUNDING


def test_same_call_same_bits(pipe: Pipeline, references: list) -> None:
    image = prompt(references[0])
    assert np.array_equal(run(pipe, image), run(pipe, image))


def test_seed_zero_is_a_seed(pipe: Pipeline) -> None:
    assert not np.array_equal(run(pipe, seed=0), run(pipe, seed=1))
    assert np.array_equal(run(pipe, seed=0), run(pipe, seed=0))


def test_given_latents_replace_the_seed(pipe: Pipeline) -> None:
    from ipa.prepare.samplers.noise import NoiseStream

    noise = NoiseStream(5).normal((1, 4, 6, 8))
    assert np.array_equal(run(pipe, latents=noise, seed=99), run(pipe))


def test_no_guidance_ignores_the_negative_prompt(pipe: Pipeline, references: list) -> None:
    image = prompt(references[0])
    one = run(pipe, image, guidance_scale=1.0, negative_prompt="red")
    assert np.array_equal(one, run(pipe, image, guidance_scale=1.0))
    assert not np.array_equal(
        run(pipe, image, negative_prompt="red"), run(pipe, image, negative_prompt="blue")
    )


def test_adapter_scale_is_read_at_every_call(
    tiny: Path, backend: str, open_pipeline: Open, references: list
) -> None:
    own = open_pipeline(tiny, backend, "linear")
    explicit = run(own, prompt(references[0], scale=0.3))
    own.set_ip_adapter_scale(0.3)
    assert np.array_equal(run(own, prompt(references[0])), explicit)
    own.set_ip_adapter_scale([0.0], name="linear")
    assert not np.array_equal(run(own, prompt(references[0])), explicit)


def test_cancelled_pipeline_stays_usable(pipe: Pipeline, references: list) -> None:
    image, cancel = prompt(references[0]), threading.Event()
    seen = []

    def stop_after_first(event: ipa.Progress) -> None:
        seen.append((event.stage, event.step))
        if event.stage == "denoise":
            cancel.set()

    with pytest.raises(ipa.Cancelled):
        pipe("a star", image_prompts=[image], on_progress=stop_after_first, cancel=cancel, **CALL)
    assert seen[-1] == ("denoise", 1)
    assert np.array_equal(run(pipe, image), run(pipe, image))


def test_stream_reports_every_step_and_ends_with_the_result(pipe: Pipeline) -> None:
    events = list(pipe.stream("a star", **(CALL | {"output_type": "pil"})))
    assert [e.step for e in events if e.stage == "denoise"] == [1, 2]
    order = ["encode", "denoise", "decode", "done"]
    stages = [order.index(e.stage) for e in events]
    assert stages == sorted(stages)
    assert [e.result is not None for e in events] == [False] * (len(events) - 1) + [True]
    assert events[-1].result.images[0].size == (64, 48)


def test_abandoned_stream_frees_the_pipeline(pipe: Pipeline, base: np.ndarray) -> None:
    stream = pipe.stream("a star", **CALL)
    next(stream)
    with pytest.raises(ipa.RequestError, match="in the middle of a stream"):
        run(pipe)
    stream.close()
    assert np.array_equal(run(pipe), base)


def test_threads_take_turns(pipe: Pipeline, references: list) -> None:
    """A pipeline that was loaded here is used from two other threads at once."""
    expected = [run(pipe, prompt(image)) for image in references[:2]]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        found[number] = run(pipe, prompt(references[number]))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[n], expected[n]) for n in range(2))


def test_numpy_numbers_are_numbers(pipe: Pipeline, references: list) -> None:
    """And a scale that is changed afterwards changes nothing."""
    import json

    scale = {"up": {"block_0": [np.float32(0.5), 0, 1]}, "mid": np.float64(0.25)}
    given = prompt(references[0], scale=scale, start=np.float32(0.0))
    kept = json.dumps(given.scale)
    scale["mid"] = np.float64(9.0)
    numbers = {"seed": np.int64(5), "guidance_scale": np.float32(3.0), "width": np.int16(64)}
    result = pipe("a star", image_prompts=given, **(CALL | numbers))
    assert (
        json.loads(json.dumps(result.info))["request"]["image_prompts"][0]["scale"] == given.scale
    )
    plain = prompt(references[0], scale=json.loads(kept))
    assert np.array_equal(run(pipe, plain), result.latents)


def test_result_says_how_to_run_it_again(pipe: Pipeline, references: list) -> None:
    import json

    result = pipe("a star", image_prompts=[prompt(references[0], scale=0.5)], **CALL)
    info = json.loads(json.dumps(result.info))
    request = info["request"]
    again = pipe(
        request["prompt"],
        image_prompts=[prompt(references[0], scale=request["image_prompts"][0]["scale"])],
        **{k: request[k] for k in ("width", "height", "num_inference_steps", "guidance_scale")},
        **{k: request[k] for k in ("scheduler", "seed", "num_images")},
        output_type="latent",
    )
    assert np.array_equal(again.latents, result.latents)
    assert info["backend"] in {"mlx", "torch"}
