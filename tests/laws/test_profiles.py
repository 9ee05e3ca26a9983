"""Profiles on both backends: what they change, and what they leave bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import ImageEmbeds, ImagePrompt, Pipeline, RequestError
from ipa.prepare.image_prompts.ipadpt import write_ipadpt
from ipa.prepare.samplers.noise import NoiseStream
from ipa.request.profiles import PROFILES
from oracle.measure import relative

Open = Callable[..., Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "width": 64,
    "height": 48,
    "output_type": "latent",
    "negative_prompt": "a ring",
    "seed": 5,
}
# The two backends' latents, relative L2: measured 1.8e-6.
BETWEEN = 5e-6
# torch's own, of two rows and of one, or of arrays that lie elsewhere: measured 9e-7.
CLOSE = 3e-6
SLOPE = np.linspace(0, 1, 64)[None].repeat(48, 0)
OTHERS = ("tencent", "diffusers", "comfyui")


@pytest.fixture(scope="module")
def pipe(tiny: Path, backend: str, open_pipeline: Open) -> Pipeline:
    return open_pipeline(tiny, backend, "linear", "plus")


@pytest.fixture(scope="module")
def pictures(references: list[Image.Image]) -> list[Image.Image]:
    """Not square, and not of the encoder's size."""
    return [image.resize((75, 50)) for image in references]


def run(pipe: Pipeline, profile: str | None, *prompts: ImagePrompt, **changes: Any) -> np.ndarray:
    call = CALL | {"image_prompts": prompts, "profile": profile} | changes
    return pipe("a star", **call).latents


def prompts(pictures: list[Image.Image]) -> dict[str, list[ImagePrompt]]:
    """Each asks for something that profiles read differently."""
    a, b = pictures[:2]
    return {
        "pooled": [ImagePrompt(a, adapter="linear")],
        "states": [ImagePrompt(a, adapter="plus")],
        "mask": [ImagePrompt(a, adapter="linear", mask=SLOPE)],
        "window": [ImagePrompt(a, adapter="linear", start=0.2, end=0.7)],
        "two, one mask": [ImagePrompt([a, b], adapter="plus", mask=SLOPE)],
        "scales": [ImagePrompt([a, b], adapter="plus", scale=[0.9, 0.3])],
    }


# Which of them come out as without a profile, bit for bit. ComfyUI's encoder sees other pixels in
# all of them; tencent's lists are batches.
SAME: dict[str, set[str]] = {
    "tencent": {"pooled", "states", "mask", "window"},
    "diffusers": {"pooled", "states", "scales"},
    "comfyui": set(),
}
# Which of them the backends are compared in.
COMPARED: dict[str, tuple[str, ...]] = {
    "tencent": ("states",),
    "diffusers": ("mask", "window", "two, one mask"),
    "comfyui": ("states", "mask", "window", "scales"),
}


def test_none_is_the_house(pipe: Pipeline, pictures: list[Image.Image]) -> None:
    for name in ("mask", "window", "scales"):
        given = prompts(pictures)[name]
        plain = pipe("a star", image_prompts=given, **CALL)
        assert plain.info["request"]["profile"] == "default"
        assert np.array_equal(run(pipe, None, *given), plain.latents)
        assert np.array_equal(run(pipe, "default", *given), plain.latents)


def test_profiles_change_what_they_must(pipe: Pipeline, pictures: list[Image.Image]) -> None:
    for name, given in prompts(pictures).items():
        plain = run(pipe, None, *given)
        for profile in OTHERS:
            found = run(pipe, profile, *given)
            if profile == "tencent" and len(given[0].images) > 1:
                assert len(found) == len(given[0].images)
                continue
            if name in SAME[profile]:
                assert np.array_equal(found, plain), (profile, name)
            else:
                # The least of them, other pixels alone: measured 4.2e-4.
                assert relative(found, plain) > 1e-4, (profile, name)


def test_tencents_list_is_a_call_for_each(pipe: Pipeline, pictures: list[Image.Image]) -> None:
    """D3: every picture makes its own; what is listed goes with them. D29: from one generator."""
    both = ImagePrompt(pictures[:2], adapter="plus", scale=[0.9, 0.3])
    size = {"width": 72, "height": 40}  # 180 values, of which torch draws 16 at a time
    found = run(pipe, "tencent", both, num_images=2, **size)
    drawn = NoiseStream(CALL["seed"]).normal((4, 4, 5, 9))
    assert found.shape == drawn.shape
    for number, scale in enumerate((0.9, 0.3)):
        one = ImagePrompt(pictures[number], adapter="plus", scale=scale)
        rows = slice(2 * number, 2 * number + 2)
        alone = run(pipe, "tencent", one, num_images=2, latents=drawn[rows], **size)
        assert relative(found[rows], alone) < CLOSE


@pytest.mark.parametrize("profile", PROFILES)
def test_one_generator_or_one_each(
    profile: str, pipe: Pipeline, pictures: list[Image.Image]
) -> None:
    """D29: seeds as the record tells them; a picture alone is that of the seed in any case."""
    one = ImagePrompt(pictures[0], adapter="linear")
    options = {"num_images": 2, "scheduler": "euler_ancestral"}
    result = pipe("a star", image_prompts=one, profile=profile, **(CALL | options))
    together = PROFILES[profile].seeds == "one generator"
    assert result.info["request"]["seeds"] == ([5, 5] if together else [5, 6])
    again = [run(pipe, profile, one, **(options | {"num_images": 1, "seed": s})) for s in (5, 6)]
    assert relative(result.latents[:1], again[0]) < (np.inf if together else CLOSE)
    assert (relative(result.latents[1:], again[1]) < CLOSE) is not together


@pytest.mark.parametrize("given", ["noise", "one", "each", "masked"])
def test_prompts_share_the_generator(
    given: str, pipe: Pipeline, references: list[Image.Image]
) -> None:
    """D29: two prompts of one text are one prompt with two pictures, whatever they start from."""
    mask = np.tile(np.arange(64) < 30, (48, 1))
    one, two = (image.resize((64, 48)) for image in references[:2])
    start: dict[str, Any] = {
        "noise": {},
        "one": {"image": one},
        "each": {"image": [one, two]},
        "masked": {"image": one, "mask_image": mask},
    }[given]
    call = CALL | {"profile": "tencent", "scheduler": "euler_ancestral", **start}
    together = pipe("a star", num_images=2, **call).latents
    apart = pipe(["a star"] * 2, **call)
    assert relative(apart.latents, together) < CLOSE
    assert relative(together[1], together[0]) > 0.1
    assert apart.info["request"]["seeds"] == [5, 5]


def test_the_published_comfyui_leaves_the_middle_out(
    pipe: Pipeline, pictures: list[Image.Image]
) -> None:
    """D23: λ is 0 there, whatever was asked for, and a warning says so."""
    named = {"down": 0.9, "mid": 0.9, "up": 0.9}
    for scale in (0.9, named):
        one = ImagePrompt(pictures[0], adapter="plus", scale=scale)
        without = ImagePrompt(pictures[0], adapter="plus", scale=named | {"mid": 0.0})
        found = run(pipe, "comfyui", one)
        assert np.array_equal(found, run(pipe, "comfyui-as-meant", without))
        assert relative(found, run(pipe, "comfyui-as-meant", one)) > 1e-3
    for profile in PROFILES:
        told = pipe("a star", image_prompts=one, profile=profile, **CALL).info["warnings"]
        assert any("comfyui-as-meant" in text for text in told) is (profile == "comfyui")
        quiet = pipe("a star", profile=profile, **CALL).info["warnings"]
        assert not any("comfyui-as-meant" in text for text in quiet)


@pytest.mark.parametrize("profile", OTHERS)
def test_backends_agree(
    profile: str, tiny: Path, pictures: list[Image.Image], open_pipeline: Open
) -> None:
    mlx, torch = (open_pipeline(tiny, name, "linear", "plus") for name in ("mlx", "torch"))
    for name in COMPARED[profile]:
        given = prompts(pictures)[name]
        assert relative(run(mlx, profile, *given), run(torch, profile, *given)) < BETWEEN


def test_black_is_a_negative_picture_for_states_alone(
    pipe: Pipeline, pictures: list[Image.Image]
) -> None:
    """D1, by what a person can say with a negative picture."""
    black, one = Image.new("RGB", (9, 9)), pictures[0]
    for adapter, zeros in (("plus", False), ("linear", True)):
        found = run(pipe, "comfyui", ImagePrompt(one, adapter=adapter))
        steered = run(pipe, "comfyui", ImagePrompt(one, adapter=adapter, negative=black))
        assert np.array_equal(found, steered) is not zeros
        embeds = pipe.encode_image_prompt(one, adapter=adapter, profile="comfyui")
        assert embeds.unconditional.any() is not zeros
    pair = pipe.encode_image_prompt(pictures[:2], adapter="plus", profile="comfyui")
    assert np.array_equal(pair.unconditional[0], pair.unconditional[1])


def test_a_list_of_scales_is_weights_before_the_projector(
    pipe: Pipeline, pictures: list[Image.Image]
) -> None:
    """D10, by the algebra of embeds; a list of ones is no list."""
    two = pictures[:2]
    embeds = pipe.encode_image_prompt(two, adapter="plus", profile="comfyui")
    weighted = ImagePrompt(embeds.combine("concat", [0.9, 0.3]), adapter="plus", scale=1.0)
    listed = ImagePrompt(two, adapter="plus", scale=[0.9, 0.3])
    assert np.array_equal(run(pipe, "comfyui", listed), run(pipe, "comfyui", weighted))
    ones, one = (ImagePrompt(two, adapter="plus", scale=s) for s in ([1.0, 1.0], 1.0))
    assert np.array_equal(run(pipe, "comfyui", ones), run(pipe, "comfyui", one))
    assert not np.array_equal(run(pipe, None, ones), run(pipe, None, one))


def test_one_mask_on_several_pictures(pipe: Pipeline, pictures: list[Image.Image]) -> None:
    """D4: a softmax for each under diffusers, a joint one under ComfyUI, each by other words."""
    a, b = pictures[:2]
    hard = (SLOPE > 0.4).astype(np.float32)
    both = ImagePrompt([a, b], adapter="plus", mask=hard)
    alone = [ImagePrompt(one, adapter="plus", mask=hard) for one in (a, b)]
    assert np.array_equal(run(pipe, "diffusers", both), run(pipe, "diffusers", *alone))
    assert relative(run(pipe, "comfyui", both), run(pipe, "comfyui", *alone)) > 1e-3


# The steps of four that are on with end=0.5, at the levels of "euler_karras": timesteps 751, 411,
# 69 and 1. A half of the training is over before the second.
ON = {None: 2, "tencent": 2, "diffusers": 3, "comfyui": 1}


def test_windows_count_what_each_program_counts(
    pipe: Pipeline, pictures: list[Image.Image]
) -> None:
    """D6, by a callback that switches the prompt off after as many steps."""
    call = {"num_inference_steps": 4, "scheduler": "euler_karras"}
    for profile, count in ON.items():
        half = ImagePrompt(pictures[0], adapter="linear", end=0.5)
        whole = ImagePrompt(pictures[0], adapter="linear")
        expected = run(
            pipe,
            profile,
            whole,
            weights=lambda step, _, on=count: {0: float(step < on)},
            **call,
        )
        assert np.array_equal(run(pipe, profile, half, **call), expected)


@pytest.mark.parametrize("profile", OTHERS)
def test_embeds_are_the_picture_under_their_own_profile(
    profile: str, pipe: Pipeline, pictures: list[Image.Image], tmp_path: Path
) -> None:
    """And are refused where pictures become other features; also in files."""
    for adapter in ("linear", "plus"):
        embeds = pipe.encode_image_prompt(pictures[0], adapter=adapter, profile=profile)
        direct = run(pipe, profile, ImagePrompt(pictures[0], adapter=adapter))
        assert np.array_equal(run(pipe, profile, ImagePrompt(embeds, adapter=adapter)), direct)
        embeds.save(tmp_path / "x.safetensors")
        loaded = pipe.load_image_embeds(
            tmp_path / "x.safetensors", adapter=adapter, profile=profile
        )
        assert loaded.origin == embeds.origin
        for other in PROFILES:
            given = {"image_prompts": ImagePrompt(embeds, adapter=adapter), "profile": other}
            load = {"path": tmp_path / "x.safetensors", "adapter": adapter, "profile": other}
            if profile.startswith("comfyui") == other.startswith("comfyui"):
                pipe.stream(**given)  # checked, not run
                pipe.load_image_embeds(**load)
                continue
            with pytest.raises(RequestError, match=r"another preprocessing.*and profile"):
                pipe.stream(**given)
            with pytest.raises(RequestError, match=r"another preprocessing.*and profile"):
                pipe.load_image_embeds(**load)


def test_files_of_others_get_the_profiles_unconditional_features(
    pipe: Pipeline, pictures: list[Image.Image], tmp_path: Path
) -> None:
    for adapter in ("linear", "plus"):
        embeds = pipe.encode_image_prompt(pictures[0], adapter=adapter, profile="comfyui")
        write_ipadpt(embeds, tmp_path / "x.ipadpt", layout="comfyui")
        load: Callable[..., ImageEmbeds] = pipe.load_image_embeds
        loaded = load(tmp_path / "x.ipadpt", adapter=adapter, profile="comfyui")
        assert loaded.origin == embeds.origin
        assert np.allclose(loaded.unconditional, embeds.unconditional, atol=1e-6)


def test_views_are_what_the_profile_sees(pipe: Pipeline, pictures: list[Image.Image]) -> None:
    prompt = ImagePrompt(pictures[0], adapter="linear")
    plain, same, other = (
        np.asarray(pipe.encoder_views(prompt, profile=name)[0], float)
        for name in (None, "diffusers", "comfyui")
    )
    assert np.array_equal(plain, same) and 0 < np.abs(plain - other).mean() < 5


def test_the_record_runs_again(pipe: Pipeline, pictures: list[Image.Image]) -> None:
    """Also what a profile says where nothing was said: tencent's negative prompt."""
    given = ImagePrompt(pictures[0], adapter="plus", end=0.6)
    for profile in OTHERS:
        call = CALL | {"negative_prompt": None, "image_prompts": given, "profile": profile}
        result = pipe("a star", **call)
        kept = json.loads(json.dumps(result.info))["request"]
        assert kept["profile"] == profile
        said = {"profile": kept["profile"], "negative_prompt": kept["negative_prompt"]}
        assert np.array_equal(pipe("a star", **(call | said)).latents, result.latents)
        assert (kept["negative_prompt"] or "").startswith("monochrome") is (profile == "tencent")


def test_no_negative_prompt_of_sdxl(
    tiny_xl: Path, backend: str, open_pipeline: Open, pictures: list[Image.Image]
) -> None:
    """D14: zeros, or a text; sizes are the real ones."""
    own = open_pipeline(tiny_xl, backend, "linear")
    square = ImagePrompt(pictures[0].resize((8, 8)), negative=pictures[1])

    def out(profile: str | None, negative: str | None) -> np.ndarray:
        return run(own, profile, square, negative_prompt=negative, num_inference_steps=1)

    zeros, empty = out(None, None), out(None, "")
    assert relative(zeros, empty) > 1e-3
    assert np.array_equal(out("diffusers", None), zeros)
    assert np.array_equal(out("comfyui", None), out("comfyui", ""))
    text = PROFILES["tencent"].negative_prompt
    assert np.array_equal(out("tencent", None), out(None, text))
    call = CALL | {"negative_prompt": None, "num_inference_steps": 1}
    kept = own("", profile="comfyui", **call).info["request"]
    assert (kept["original_size"], kept["target_size"]) == ((48, 64), (48, 64))


def test_unknown_profiles_are_told_before_anything_runs(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="did you mean 'comfyui'"):
        pipe.stream("a star", profile="comfy")
    with pytest.raises(RequestError, match="did you mean 'diffusers'"):
        pipe.encode_image_prompt(Image.new("L", (2, 2)), adapter="linear", profile="difusers")
