"""Lists of prompts, and of pictures with one for each: a call is its prompts alone, bit for bit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import ImagePrompt, Pipeline, RequestError

Open = Callable[..., Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 1,
    "guidance_scale": 3.0,
    "width": 32,
    "height": 24,
    "output_type": "latent",
    "seed": 5,
}
TEXTS = ["a star", "a red ring"]
LEFT = np.tile(np.arange(32) < 12, (24, 1))


@pytest.fixture(scope="module", params=["tiny", "tiny_xl"])
def pipe(request: pytest.FixtureRequest, backend: str, open_pipeline: Open) -> Pipeline:
    return open_pipeline(Path(request.getfixturevalue(request.param)), backend, "linear", "plus")


@pytest.fixture(scope="module")
def small(tiny: Path, backend: str, open_pipeline: Open) -> Pipeline:
    return open_pipeline(tiny, backend, "linear", "plus")


def given(image: Any, adapter: str = "linear", **options: Any) -> ImagePrompt:
    return ImagePrompt(image, adapter=adapter, **options)


def each(image: Any, adapter: str = "linear", **options: Any) -> ImagePrompt:
    return given(image, adapter, batched=True, **options)


def run(pipe: Pipeline, prompt: Any, *prompts: ImagePrompt, **changes: Any) -> np.ndarray:
    return pipe(prompt, image_prompts=prompts, **(CALL | changes)).latents


def test_every_prompt_is_a_call_of_its_own(pipe: Pipeline, references: list) -> None:
    """Its picture, what goes with all, its seeds; also with a sampler that draws noise."""
    one, two, shared = *references[:2], given(references[2:4], "plus", scale=0.5)
    options = {"num_images": 2, "num_inference_steps": 2, "scheduler": "euler_ancestral"}
    negatives = ["a circle", None]
    found = run(pipe, TEXTS, each([one, two]), shared, negative_prompt=negatives, **options)
    alone = [
        run(pipe, TEXTS[0], given(one), shared, negative_prompt="a circle", **options),
        run(pipe, TEXTS[1], given(two), shared, seed=7, **options),
    ]
    assert found.shape[0] == 4
    assert np.array_equal(found, np.concatenate(alone))


def test_pictures_alone_make_the_list(small: Pipeline, references: list) -> None:
    """One text and N pictures are N prompts; a list of one is one prompt."""
    found = run(small, "a star", each(references[:2]))
    alone = [
        run(small, "a star", given(image), seed=5 + n) for n, image in enumerate(references[:2])
    ]
    assert np.array_equal(found, np.concatenate(alone))
    single = run(small, ["a star"], each(references[0]))
    assert np.array_equal(single, alone[0])


def test_not_batched_pictures_go_to_every_prompt(small: Pipeline, references: list) -> None:
    both = given(references[:2])
    found = run(small, TEXTS, both)
    alone = [run(small, text, both, seed=5 + number) for number, text in enumerate(TEXTS)]
    assert np.array_equal(found, np.concatenate(alone))
    diffusers = small(TEXTS, ip_adapter_image=[references[:2], references[2]], **CALL).latents
    prompts = (both, given(references[2], "plus"))
    assert np.array_equal(diffusers, run(small, TEXTS, *prompts))


def test_scales_masks_and_negatives_go_one_each(small: Pipeline, references: list) -> None:
    one, two, three, four = references[:4]
    options = {"scale": [0.9, 0.3], "mask": [LEFT, None], "negative": [three, four]}
    found = run(small, TEXTS, each([one, two], **options))
    alone = [
        run(small, TEXTS[0], given(one, scale=0.9, mask=LEFT, negative=three)),
        run(small, TEXTS[1], given(two, scale=0.3, negative=four), seed=6),
    ]
    assert np.array_equal(found, np.concatenate(alone))
    last = run(small, TEXTS, each([one, two], negative=[three]))
    assert np.array_equal(last[1:], run(small, TEXTS[1], given(two, negative=three), seed=6))


def test_masks_on_pictures_go_one_each(small: Pipeline, references: list) -> None:
    shown = [np.tile(np.arange(64) < n, (64, 1)) for n in (20, 50)]
    found = run(small, TEXTS, each(references[:2], encoder_mask=shown))
    alone = [
        run(small, text, given(picture, encoder_mask=mask), seed=5 + number)
        for number, (text, picture, mask) in enumerate(
            zip(TEXTS, references[:2], shown, strict=True)
        )
    ]
    assert np.array_equal(found, np.concatenate(alone))


def test_influence_is_of_every_prompt(small: Pipeline, references: list) -> None:
    """Tiles of the second picture that the first has not have no share in its picture."""
    pictures = [references[0], references[1].resize((64, 20))]
    prompt = each(pictures, "plus", fit="tile")
    options = CALL | {"influence": True}
    found = small(TEXTS, image_prompts=prompt, **options)
    for number, (text, picture) in enumerate(zip(TEXTS, pictures, strict=True)):
        alone = small(
            text,
            image_prompts=given(picture, "plus", fit="tile"),
            **(options | {"seed": 5 + number}),
        )
        own = found.influence.map(0, image=number)
        assert np.allclose(own, alone.influence.map(0), atol=1e-6)
        told = found.info["influence"][number]
        assert told["text"] == alone.info["influence"][0]["text"]
        shares = told["image_prompts"][0]["pictures"]
        known = alone.info["influence"][0]["image_prompts"][0]["pictures"]
        assert shares[: len(known)] == known and not any(shares[len(known) :])
    assert found.influence.images == 2


def test_embeds_are_split_by_row(small: Pipeline, references: list) -> None:
    """With a single unconditional row, and with one for each."""
    adapter = "plus"
    rows = [small.encode_image_prompt(image, adapter=adapter) for image in references[:4]]
    against = [rows[0].against(rows[2]), rows[1].against(rows[3])]
    for pair in (rows[:2], against):
        joined = ipa.ImageEmbeds.join(pair)
        found = run(small, TEXTS, each(joined, adapter, scale=[1.0, 0.5]))
        alone = [
            run(small, text, given(row, adapter, scale=scale), seed=5 + number)
            for number, (text, row, scale) in enumerate(zip(TEXTS, pair, (1, 0.5), strict=True))
        ]
        assert np.array_equal(found, np.concatenate(alone))


def test_given_latents_are_split(small: Pipeline, references: list, draw: Any) -> None:
    noise = draw.standard_normal((4, 4, 3, 4)).astype(np.float32)
    options = {"num_images": 2, "seed": 99}
    found = run(small, TEXTS, each(references[:2]), latents=noise, **options)
    alone = [
        run(small, text, given(image), latents=noise[2 * n : 2 * n + 2], **options)
        for n, (text, image) in enumerate(zip(TEXTS, references, strict=False))
    ]
    assert np.array_equal(found, np.concatenate(alone))


def test_second_prompts_are_lists_too(
    tiny_xl: Path, backend: str, open_pipeline: Open, references: list
) -> None:
    pipe, image = open_pipeline(tiny_xl, backend, "linear"), given(references[0])
    second = {"prompt_2": ["blue", None], "negative_prompt": "a ring"}
    found = pipe("a star", image_prompts=image, **CALL, **second)
    alone = [
        run(pipe, "a star", image, prompt_2=text, negative_prompt="a ring", seed=5 + number)
        for number, text in enumerate(second["prompt_2"])
    ]
    assert np.array_equal(found.latents, np.concatenate(alone))
    assert found.info["request"]["prompt_2"] == ["blue", None]


def test_pictures_come_in_order(small: Pipeline, references: list) -> None:
    """As PIL pictures and as one array."""
    calls = CALL | {"num_images": 2}
    prompts = each(references[:2])
    arrays = small(TEXTS, image_prompts=prompts, **(calls | {"output_type": "np"})).images
    pictures = small(TEXTS, image_prompts=prompts, **(calls | {"output_type": "pil"})).images
    assert arrays.shape == (4, 24, 32, 3)
    assert all(np.array_equal(np.round(a * 255), p) for a, p in zip(arrays, pictures, strict=True))
    second = small(
        TEXTS[1], image_prompts=given(references[1]), **(calls | {"output_type": "pil", "seed": 7})
    )
    assert all(np.array_equal(a, b) for a, b in zip(pictures[2:], second.images, strict=True))


def test_steps_are_counted_over_all(small: Pipeline) -> None:
    events = list(small.stream(TEXTS, **(CALL | {"num_inference_steps": 2, "output_type": "pil"})))
    denoised = [event for event in events if event.stage == "denoise"]
    assert [(event.step, event.total) for event in denoised] == [(n, 4) for n in (1, 2, 3, 4)]
    assert denoised[0].eta_s > 0 and denoised[-1].eta_s == 0
    for stage in ("encode", "decode"):
        steps = [event.step for event in events if event.stage == stage]
        assert steps == [0, 1, 1, 2]
    assert [event.result is not None for event in events] == [False] * (len(events) - 1) + [True]


def test_cancelled_in_the_second_prompt(small: Pipeline, references: list) -> None:
    cancel, seen = threading.Event(), []

    def stop(event: ipa.Progress) -> None:
        seen.append((event.stage, event.step))
        if seen[-1] == ("denoise", 3):
            cancel.set()

    with pytest.raises(ipa.Cancelled):
        small(TEXTS, on_progress=stop, cancel=cancel, **(CALL | {"num_inference_steps": 2}))
    assert seen[-1] == ("denoise", 3)
    assert np.array_equal(run(small, "a star"), run(small, "a star"))


def test_info_runs_the_call_again(small: Pipeline, references: list, draw: Any) -> None:
    """The whole call, and every prompt of it alone."""
    options = {"num_images": 2, "weights": lambda step, steps: {0: 0.5}}
    prompts = each(references[:2], scale=[0.4, 0.8])
    result = small(TEXTS, image_prompts=prompts, **CALL, **options)
    info = json.loads(json.dumps(result.info))
    whole = info["request"]
    assert (whole["prompt"], whole["negative_prompt"]) == (TEXTS, None)
    assert whole["seeds"] == [5, 6, 7, 8] and whole["weights"] == "callable"
    kept = whole["image_prompts"][0]
    assert (kept["batched"], kept["scale"], len(kept["images_sha256"])) == (True, [0.4, 0.8], 2)
    assert info["weights_by_step"] == [[[0.5]]] * 2
    names = ("num_inference_steps", "guidance_scale", "width", "height", "scheduler", "seed")
    arguments = {name: whole[name] for name in (*names, "num_images")} | {"output_type": "latent"}
    again = each(references[:2], scale=kept["scale"])
    weights = options["weights"]
    found = small(whole["prompt"], image_prompts=again, weights=weights, **arguments)
    assert np.array_equal(found.latents, result.latents)
    for number, single in enumerate(info["requests"]):
        own = single["image_prompts"][0]
        assert own["images_sha256"] == [kept["images_sha256"][number]]
        prompt = given(references[number], scale=own["scale"])
        arguments["seed"] = single["seed"]
        found = small(single["prompt"], image_prompts=prompt, weights=weights, **arguments)
        assert np.array_equal(found.latents, result.latents[2 * number : 2 * number + 2])
    noise = draw.standard_normal((2, 4, 3, 4)).astype(np.float32)
    told = [
        small(text, **(CALL | {"latents": noise, "num_images": count})).info["request"]
        for text, count in ((TEXTS, 1), ("a star", 2))
    ]
    assert told[0]["given_latents_sha256"] == told[1]["given_latents_sha256"] is not None


def test_one_prompt_is_told_as_before(small: Pipeline) -> None:
    """A list of one, too."""
    plain, listed = (small(prompt, **CALL).info for prompt in ("a star", ["a star"]))
    assert plain["request"] == listed["request"] and plain.keys() == listed.keys()
    assert "requests" not in plain and plain["request"]["prompt"] == "a star"


def test_warnings_name_their_prompt(small: Pipeline, references: list) -> None:
    wide = references[1].resize((90, 30))
    found = small(TEXTS, image_prompts=each([references[0], wide]), **CALL).info["warnings"]
    assert [text for text in found if text.startswith("prompt 2: image prompt 1, picture 1")]
    both = small(TEXTS, image_prompts=given(wide), **CALL).info["warnings"]
    assert [text for text in both if text.startswith("image prompt 1, picture 1")]
    assert not [text for text in both if text.startswith("prompt")]


GREY = Image.new("RGB", (8, 8), "grey")
MISTAKES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "pictures": (
        lambda: {"prompt": TEXTS, "image_prompts": each([GREY] * 3)},
        r"prompt= 2, image_prompts\[0\] \(batched\) 3",
    ),
    "two lists of pictures": (
        lambda: {"image_prompts": [each([GREY] * 2), each([GREY] * 3, "plus")]},
        r"image_prompts\[0\] \(batched\) 2, image_prompts\[1\] \(batched\) 3",
    ),
    "negative prompts": (lambda: {"prompt": TEXTS, "negative_prompt": ["x"]}, "negative_prompt= 1"),
    "no prompts": (lambda: {"prompt": []}, "one or more; found: prompt= 0"),
    "number for a prompt": (lambda: {"prompt": ["a", 3]}, r"prompt\[1\] must be a string.*int"),
    "no text for a prompt": (lambda: {"prompt": [None, "a"]}, r"prompt\[0\] must be a string"),
    "scales": (
        lambda: {"image_prompts": each([GREY] * 2, scale=[1, 1, 1])},
        "one entry per picture.*3 entries, 2 needed",
    ),
    "combined": (lambda: {"image_prompts": each([GREY] * 2, combine="add")}, "nothing to combine"),
    "batched": (lambda: {"image_prompts": given(GREY, batched=2)}, "must be True or False"),
    "latents": (
        lambda: {"prompt": TEXTS, "latents": np.zeros((3, 4, 3, 4), np.float32)},
        r"\(3, 4, 3, 4\); remedy: 2 rows are needed: 2 prompts, num_images=1",
    ),
    "latents of the wrong size": (
        lambda: {"prompt": TEXTS, "latents": np.zeros((2, 4, 9, 9), np.float32)},
        r"prompt 1: latents have the wrong shape",
    ),
    "one picture of many": (
        lambda: {"prompt": TEXTS, "image_prompts": each([GREY, np.zeros((4, 4, 7), np.uint8)])},
        r"prompt 2: .*\(4, 4, 7\)",
    ),
    "no prompt at all": (lambda: {"prompt": TEXTS, "image_prompts": [GREY]}, "ImagePrompt"),
    "numbers": (lambda: {"prompt": TEXTS, "num_images": 0}, "num_images must be an integer"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_lists_are_told_before_any_work(name: str, small: Pipeline) -> None:
    make, message = MISTAKES[name]
    with pytest.raises(RequestError, match=message):
        small.stream(**(CALL | make()))
