"""Laws of runs that start from a picture, on both backends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import ImagePrompt, Pipeline, RequestError
from ipa.prepare.images.pictures import vae_pixels
from ipa.prepare.samplers.noise import NoiseStream
from oracle import models
from oracle.measure import relative

Open = Callable[..., Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "output_type": "latent",
    "seed": 5,
}
# Where a batch only changes the order of sums: relative L2, measured 1.2e-6 on both backends.
ROUNDING = 5e-6


@pytest.fixture(scope="module")
def pipe(tiny: Path, backend: str, open_pipeline: Open) -> Pipeline:
    return open_pipeline(tiny, backend, "linear")


@pytest.fixture(scope="module")
def repainter(
    backend: str, open_pipeline: Open, tmp_path_factory: pytest.TempPathFactory
) -> Pipeline:
    """A model with nine input channels."""
    wide = models.Tiny(unet=models.UNET | {"in_channels": 9})
    folder = models.build_with_adapters(tmp_path_factory.mktemp(f"nine-{backend}"), wide, seed=3)
    return open_pipeline(folder, backend, "linear")


@pytest.fixture(scope="module")
def picture(references: list[Image.Image]) -> Image.Image:
    return references[0].resize((64, 48))


HALF = np.tile(np.arange(64) < 32, (48, 1))
WHITE, BLACK = np.ones((48, 64), bool), np.zeros((48, 64), bool)


def test_a_white_mask_at_full_strength_is_text_to_image(
    pipe: Pipeline, picture: Image.Image, draw: np.random.Generator
) -> None:
    """From the same noise: the seed's own is not the same, for the picture is drawn first."""
    call = CALL | {"latents": draw.standard_normal((1, 4, 6, 8), dtype=np.float32)}
    plain = pipe("a star", width=64, height=48, **call).latents
    call |= {"image": picture, "strength": 1.0}
    assert np.array_equal(pipe("a star", mask_image=WHITE, **call).latents, plain)
    assert not np.array_equal(pipe("a star", mask_image=HALF, **call).latents, plain)


def test_a_black_mask_keeps_the_picture(pipe: Pipeline, picture: Image.Image) -> None:
    call = CALL | {"image": picture, "mask_image": BLACK}
    found = pipe("a star", **call)
    mean, deviation = pipe._loaded.backend.encode(vae_pixels(picture, 64, 48))
    assert np.array_equal(found.latents, mean + deviation * NoiseStream(5).normal(mean.shape))
    shown = pipe("a star", **(call | {"overlay": True, "output_type": "pil"})).images[0]
    assert np.array_equal(np.asarray(shown), np.asarray(picture))


def test_what_is_kept_and_what_is_not(pipe: Pipeline, picture: Image.Image) -> None:
    call = CALL | {"image": picture, "strength": 0.75}
    kept = pipe("a star", mask_image=BLACK, **call).latents
    found = pipe("a star", mask_image=HALF, **call).latents
    assert np.array_equal(found[..., 4:], kept[..., 4:])
    assert not np.isclose(found[..., :4], kept[..., :4]).any(axis=1).all()
    image = pipe("a star", mask_image=HALF, overlay=True, **(call | {"output_type": "pil"}))
    assert np.array_equal(np.asarray(image.images[0])[:, 32:], np.asarray(picture)[:, 32:])


def test_a_crop_is_put_back_into_the_picture(pipe: Pipeline, references: list[Image.Image]) -> None:
    large = references[1].resize((120, 90))
    spot = np.zeros((90, 120), bool)
    spot[30:50, 70:90] = True
    call = CALL | {"output_type": "pil", "image": large, "mask_image": spot}
    result = pipe("a star", padding_mask_crop=4, **call)
    found = np.asarray(result.images[0])
    assert found.shape == (90, 120, 3) and result.latents.shape == (1, 4, 8, 8)
    assert np.array_equal(found[~spot], np.asarray(large)[~spot])
    assert not np.array_equal(found[spot], np.asarray(large)[spot])


@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_is_as_many_runs(pipe: Pipeline, picture: Image.Image, masked: bool) -> None:
    """With noise in every step; a list of pictures is one each, over prompts too."""
    other = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    call = CALL | {"scheduler": "euler_ancestral", "strength": 0.5}
    call |= {"mask_image": HALF} if masked else {}
    both = pipe("a star", image=[picture, other], num_images=2, **call).latents
    for number, image in enumerate((picture, other)):
        alone = pipe("a star", image=image, **(call | {"seed": 5 + number})).latents
        assert relative(both[number], alone[0]) < ROUNDING
    listed = pipe(["a star", "a ring"], image=[picture, other], **call).latents
    second = pipe("a ring", image=other, **(call | {"seed": 6})).latents
    assert np.array_equal(listed[1], second[0])


def test_image_prompts_beside_it(repainter: Pipeline, pipe: Pipeline, picture: Image.Image) -> None:
    """λ = 0 is the base model; influence changes nothing, and counts the steps really done."""
    call = CALL | {"image": picture, "mask_image": HALF, "strength": 0.5}
    for own in (pipe, repainter):
        base = own("a star", **call).latents
        off = ImagePrompt(picture, scale=0.0)
        assert np.array_equal(own("a star", image_prompts=off, **call).latents, base)
        on = ImagePrompt(picture, mask=HALF, end=0.5)
        steered = own("a star", image_prompts=on, **call)
        assert not np.array_equal(steered.latents, base)
        measured = own("a star", image_prompts=on, influence=True, **call)
        assert np.array_equal(measured.latents, steered.latents)
        first, second = (measured.influence.mean(0, steps=[step]) for step in range(2))
        assert first > 0.0 and second == 0.0


def test_progress_and_weights_count_the_steps_that_are_run(
    pipe: Pipeline, picture: Image.Image
) -> None:
    asked: list[tuple[int, int]] = []
    events = list(
        pipe.stream(
            "a star",
            image_prompts=ImagePrompt(picture),
            weights=lambda step, steps: asked.append((step, steps)),
            image=picture,
            strength=0.75,
            **CALL,
        )
    )
    steps = [(e.step, e.total) for e in events if e.stage == "denoise"]
    assert steps == [(1, 3), (2, 3), (3, 3)] and asked == [(0, 3), (1, 3), (2, 3)]


def test_the_request_is_kept(pipe: Pipeline, picture: Image.Image) -> None:
    call = CALL | {"image": picture, "mask_image": HALF, "mask_blur": 2.0}
    result = pipe("a star", **call)
    request = result.info["request"]
    names = ("strength", "padding_mask_crop", "mask_blur", "overlay", "width", "height")
    assert [request[name] for name in names] == [0.8, None, 2.0, False, 64, 48]
    assert len(request["image_sha256"]) == len(request["mask_image_sha256"]) == 1
    known = {name: request[name] for name in (*names, "seed", "scheduler", "num_inference_steps")}
    assert np.array_equal(pipe("a star", **(call | known)).latents, result.latents)
    assert "strength" not in pipe("a star", width=64, height=48, **CALL).info["request"]


def test_latents_to_start_from_are_kept_by_their_hashes(pipe: Pipeline) -> None:
    rows = np.random.default_rng(2).standard_normal((2, 4, 6, 8)).astype(np.float32)
    both = pipe("a star", image=rows, num_images=2, strength=0.5, **CALL).info["request"]
    hashes = [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
    assert both["image_sha256"] == hashes


def test_sizes(pipe: Pipeline, references: list[Image.Image]) -> None:
    """The picture's own, rounded down; or one that is asked for; arrays are pictures."""
    call = CALL | {"strength": 0.25}
    odd = references[0].resize((71, 55))
    assert pipe("a star", image=odd, **call).latents.shape == (1, 4, 6, 8)
    assert pipe("a star", image=odd, width=80, **call).latents.shape == (1, 4, 6, 10)
    array = pipe("a star", image=np.asarray(odd), **call).latents
    assert np.array_equal(array, pipe("a star", image=odd, **call).latents)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "too strong": ({"strength": 1.1}, "strength must be a number from 0 to 1"),
    "negative": ({"strength": -0.1}, "strength must be a number"),
    "NaN": ({"strength": float("nan")}, "strength must be a number"),
    "strength of no step": ({"strength": 0.2}, "leaves no step.*0.25 or more"),
    "no strength": ({"strength": 0.0}, "leaves no step"),
    "no picture": ({"image": "a.png"}, "a picture must be"),
    "an empty picture": ({"image": np.zeros((0, 5, 3), np.uint8)}, "must have the shape"),
    "too small": ({"image": np.zeros((7, 64, 3), np.uint8)}, "no picture can be made in"),
    "an empty list": ({"image": []}, "needs one entry"),
    "too many": ({"image": [Image.new("RGB", (64, 48))] * 3}, "3 entries for 1 picture"),
    "mask alone": ({"image": None, "mask_image": HALF}, "mask_image needs image"),
    "empty mask": ({"mask_image": np.zeros((0, 4))}, "not empty"),
    "mask of another size": ({"mask_image": np.ones((24, 32))}, "32 × 24, needed 64 × 48"),
    "mask of colours": ({"mask_image": np.ones((48, 64, 3))}, r"must be \(H, W\)"),
    "mask out of range": ({"mask_image": np.full((48, 64), 7.0)}, r"lie in \[0, 1\]"),
    "crop of nothing": ({"mask_image": BLACK, "padding_mask_crop": 4}, "is black"),
    "crop without a mask": ({"padding_mask_crop": 4}, "padding_mask_crop needs mask_image"),
    "overlay without a mask": ({"overlay": True}, "overlay needs mask_image"),
    "blur without a mask": ({"mask_blur": 2}, "mask_blur needs mask_image"),
    "half a pixel": ({"mask_image": HALF, "padding_mask_crop": 0.5}, "number of pixels"),
    "overlay on arrays": (
        {"mask_image": HALF, "overlay": True, "output_type": "np"},
        'they need output_type "pil"',
    ),
    "latents of another size": ({"image": np.zeros((1, 4, 5, 8)), "height": 48}, "wrong shape"),
    "latents of NaN": ({"image": np.full((1, 4, 6, 8), np.nan)}, "no finite float32"),
    "latents with a mask": (
        {"image": np.zeros((1, 4, 6, 8)), "mask_image": HALF},
        "not with latents",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_done_is_told_before(
    name: str, pipe: Pipeline, picture: Image.Image
) -> None:
    changes, words = BAD[name]
    with pytest.raises(RequestError, match=words):
        pipe.stream("a star", **(CALL | {"image": picture} | changes))


def test_a_model_for_inpainting_needs_both(repainter: Pipeline, picture: Image.Image) -> None:
    for given in ({}, {"image": picture}):
        with pytest.raises(RequestError, match="needs image and mask_image"):
            repainter.stream("a star", **CALL, **given)


def test_a_picture_that_the_vae_cannot_encode(
    backend: str, open_pipeline: Open, tiny: Path, picture: Image.Image
) -> None:
    own = open_pipeline(tiny, backend)
    vae = own._loaded.backend.vae
    if backend == "mlx":
        vae.encoder.conv_in.bias = vae.encoder.conv_in.bias * float("nan")
    else:
        vae.encoder.conv_in.bias.data.fill_(float("nan"))
    with pytest.raises(ipa.NumericalError, match="encoded picture"):
        own("a star", image=picture, **CALL)
