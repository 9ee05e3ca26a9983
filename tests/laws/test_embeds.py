"""Image embeds on both backends: what is kept, combined or exchanged is what a picture would do."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import CheckpointError, ImageEmbeds, ImagePrompt, Pipeline, RequestError
from ipa.prepare.image_prompts.ipadpt import write_ipadpt
from oracle.measure import relative

Open = Callable[..., Pipeline]
KINDS = ("linear", "plus", "full")
CALL: dict[str, Any] = {
    "num_inference_steps": 1,
    "guidance_scale": 3.0,
    "width": 64,
    "height": 48,
    "output_type": "latent",
    "seed": 5,
}
# Relative L2 where a batch of another size changes the order of sums in the encoder: measured
# 1.2e-7 of the features and 9.4e-7 of the latents, on torch; 0 on MLX.
ROUNDING = 3e-6
# The two backends' features of the same picture: measured 2.6e-7; the latents that they lead to,
# 1.5e-6.
BETWEEN = 5e-6


@pytest.fixture(scope="module")
def pipe(tiny: Path, backend: str, open_pipeline: Open) -> Pipeline:
    return open_pipeline(tiny, backend, *KINDS)


def run(pipe: Pipeline, *prompts: ImagePrompt, **changes: Any) -> np.ndarray:
    return pipe("a star", image_prompts=prompts, **(CALL | changes)).latents


def same(one: ImageEmbeds, two: ImageEmbeds) -> bool:
    arrays = ("conditional", "unconditional")
    return one.origin == two.origin and all(
        np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays
    )


@pytest.mark.parametrize("kind", KINDS)
def test_embeds_are_the_picture(
    kind: str, pipe: Pipeline, references: list, tmp_path: Path
) -> None:
    """Given, or saved and loaded: bit for bit, with and without guidance."""
    pictures = references[:2]
    embeds = pipe.encode_image_prompt(pictures, adapter=kind)
    embeds.save(tmp_path / "x.safetensors")
    loaded = ImageEmbeds.load(tmp_path / "x.safetensors")
    assert same(loaded, embeds)
    assert same(pipe.load_image_embeds(tmp_path / "x.safetensors", adapter=kind), embeds)
    for guidance in (3.0, 1.0):
        direct = run(pipe, ImagePrompt(pictures, adapter=kind), guidance_scale=guidance)
        for given in (embeds, loaded):
            found = run(pipe, ImagePrompt(given, adapter=kind), guidance_scale=guidance)
            assert np.array_equal(found, direct)


@pytest.mark.parametrize("kind", KINDS)
def test_concat_of_two_is_both_encoded(kind: str, pipe: Pipeline, references: list) -> None:
    a, b = references[:2]
    both = pipe.encode_image_prompt([a, b], adapter=kind)
    joined = ImageEmbeds.join([pipe.encode_image_prompt(p, adapter=kind) for p in (a, b)])
    assert relative(joined.conditional, both.conditional) < ROUNDING
    assert relative_or_zero(joined.unconditional, both.unconditional) < ROUNDING
    assert same(both.combine("concat"), both)
    found = run(pipe, ImagePrompt(joined, adapter=kind))
    assert relative(found, run(pipe, ImagePrompt([a, b], adapter=kind))) < ROUNDING


@pytest.mark.parametrize("kind", KINDS)
def test_average_with_itself_is_the_picture(kind: str, pipe: Pipeline, references: list) -> None:
    one = pipe.encode_image_prompt(references[0], adapter=kind)
    assert same(ImageEmbeds.join([one, one]).combine("average"), one)  # bit for bit
    assert same(ImageEmbeds.join([one, one]).combine("average", [3.0, 1.0]), one)
    twice = ImagePrompt([references[0]] * 2, adapter=kind, combine="average")
    assert relative(run(pipe, twice), run(pipe, ImagePrompt(one, adapter=kind))) < ROUNDING


@pytest.mark.parametrize("mode", ["add", "subtract", "average", "norm average", "max", "min"])
def test_combining_in_the_prompt_is_combining_before(
    mode: str, pipe: Pipeline, references: list
) -> None:
    """And it matters: no mode gives what another one, or the first picture alone, gives."""
    pictures = references[:3]
    embeds = pipe.encode_image_prompt(pictures, adapter="plus")
    before = run(pipe, ImagePrompt(embeds.combine(mode), adapter="plus"))
    for image in (pictures, embeds):
        prompt = ImagePrompt(image, adapter="plus", combine=mode)
        assert np.array_equal(run(pipe, prompt), before)
    assert relative(run(pipe, ImagePrompt(pictures[0], adapter="plus")), before) > 1e-4
    alone = ImagePrompt(pictures[0], adapter="plus", combine=mode)
    assert np.array_equal(run(pipe, alone), run(pipe, ImagePrompt(pictures[0], adapter="plus")))


@pytest.mark.parametrize("kind", KINDS)
def test_negative_picture_is_the_unconditional_half(
    kind: str, pipe: Pipeline, references: list
) -> None:
    """The picture as its own negative: with no text, both halves and so all guidance agree."""
    a, b = references[:2]
    itself = ImagePrompt(a, adapter=kind, negative=a)
    silent = {"image_prompts": [itself], **CALL}
    halves = [pipe("", **(silent | {"guidance_scale": g})).latents for g in (1.0, 9.0)]
    # Guidance multiplies the rounding of two halves that are computed beside each other: measured
    # 4.2e-7.
    assert relative(*halves) < 2e-6
    away = run(pipe, ImagePrompt(a, adapter=kind, negative=b))
    assert relative(away, run(pipe, ImagePrompt(a, adapter=kind))) > 1e-3
    given = pipe.encode_image_prompt(b, adapter=kind)
    assert np.array_equal(away, run(pipe, ImagePrompt(a, adapter=kind, negative=given)))
    kept = pipe.encode_image_prompt(a, adapter=kind, negative=b)
    assert np.array_equal(away, run(pipe, ImagePrompt(kept, adapter=kind)))
    noise = run(pipe, ImagePrompt(a, adapter=kind, negative="noise"))
    assert relative(noise, away) > 1e-3


def test_fewer_and_more_negative_pictures(pipe: Pipeline, references: list) -> None:
    """The last is repeated, or what is over is left out; combined there is one, the first."""
    a, b, c, d = references[:4]
    encode = pipe.encode_image_prompt
    one, two = (encode([a, b, c], adapter="plus", negative=n) for n in (d, [d, a]))
    rows = encode([d, a], adapter="plus").conditional
    assert np.allclose(one.unconditional, np.stack([rows[0]] * 3), atol=1e-5)
    assert np.allclose(two.unconditional, rows[[0, 1, 1]], atol=1e-5)
    more = encode(a, adapter="plus", negative=[d, b, c])
    assert np.allclose(more.unconditional, rows[:1], atol=1e-5)
    assert np.array_equal(two.combine("add").unconditional, two.unconditional[:1])
    assert np.isfinite(run(pipe, ImagePrompt(two, adapter="plus"))).all()


def test_kept_embeds_go_through_other_tools_files(
    pipe: Pipeline, references: list, tmp_path: Path
) -> None:
    for kind in KINDS:
        embeds = pipe.encode_image_prompt(references[:2], adapter=kind)
        path = tmp_path / f"{kind}.ipadpt"
        write_ipadpt(embeds, path)
        assert same(pipe.load_image_embeds(path, adapter=kind), embeds)
        negative = embeds.against(pipe.encode_image_prompt(references[2:4], adapter=kind))
        write_ipadpt(negative, path)
        assert same(pipe.load_image_embeds(path, adapter=kind), negative)
        for options in ({"layout": "comfyui"}, {"guided": False}):
            write_ipadpt(embeds, path, **options)
            found = pipe.load_image_embeds(path, adapter=kind)
            assert np.array_equal(found.conditional, embeds.conditional)
            assert relative_or_zero(found.unconditional, embeds.unconditional) < ROUNDING


def relative_or_zero(found: np.ndarray, reference: np.ndarray) -> float:
    return 0.0 if not reference.any() and not found.any() else relative(found, reference)


@pytest.mark.parametrize("kind", KINDS)
def test_backends_exchange_embeds(
    kind: str, tiny: Path, pipe: Pipeline, backend: str, open_pipeline: Open, references: list
) -> None:
    """One backend's embeds are accepted by the other, and lead to its own picture."""
    other = open_pipeline(tiny, {"mlx": "torch", "torch": "mlx"}[backend], kind)
    ours = pipe.encode_image_prompt(references[0], adapter=kind)
    theirs = other.encode_image_prompt(references[0], adapter=kind)
    assert ours.origin == theirs.origin
    assert relative(theirs.conditional, ours.conditional) < BETWEEN
    found = run(pipe, ImagePrompt(theirs, adapter=kind))
    assert relative(found, run(pipe, ImagePrompt(ours, adapter=kind))) < BETWEEN


def test_fingerprint_is_of_the_encoder_and_not_of_its_precision(
    tiny: Path, backend: str, pipe: Pipeline, tmp_path: Path, references: list
) -> None:
    import ipa

    device = {"device": "cpu"} if backend == "torch" else {}
    own = pipe.encode_image_prompt(references[0], adapter="plus").origin
    for dtype in ("float16", "bfloat16"):
        half = ipa.load(tiny, backend=backend, dtype=dtype, **device)
        half.load_ip_adapter(tiny / "plus.safetensors", name="plus")
        assert half.encode_image_prompt(references[0]).origin == own


def wide(width: int = 90, height: int = 60) -> Image.Image:
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    return Image.fromarray(ramp.astype(np.uint8))


def test_a_crop_that_loses_is_told(pipe: Pipeline) -> None:
    def warnings(picture: Image.Image, **options: Any) -> list[str]:
        prompt = ImagePrompt(picture, adapter="linear", **options)
        return pipe("", image_prompts=[prompt], **CALL).info["warnings"]

    (told,) = warnings(wide())
    assert "image prompt 1, picture 1 (90 × 60)" in told and "middle 67% of it" in told
    assert "fit='pad' or 'squash' keeps all" in told
    (told,) = warnings(wide(), fit=(0.0, 0.0, 1.0, 0.5))
    assert "middle 33% of the box in it" in told
    for quiet in ("pad", "squash", "center-crop", "left", (1 / 3, 0, 1, 1)):
        assert warnings(wide(), fit=quiet) == []
    assert warnings(wide(60, 60)) == [] == warnings(wide(600, 599))


def test_the_record_says_what_was_done_to_the_pictures(pipe: Pipeline, references: list) -> None:
    embeds = pipe.encode_image_prompt(references[0], adapter="linear")
    prompts = [
        ImagePrompt(references[0], adapter="linear", fit="pad", sharpen=0.5, negative="noise"),
        ImagePrompt(embeds, adapter="linear", negative=references[1], combine="average"),
    ]
    one, two = pipe("", image_prompts=prompts, **CALL).info["request"]["image_prompts"]
    assert (one["fit"], one["sharpen"], one["negative"]) == ("pad", 0.5, "noise")
    assert two["combine"] == "average" and two["images_sha256"] == []
    assert len(two["embeds_sha256"]) == 64 and len(two["negative"]["images_sha256"]) == 1


# How to make a prompt that cannot be, and what the message must say.
WRONG: dict[str, tuple[Callable[[Pipeline, Image.Image], Any], str]] = {
    "embeds of another kind": (
        lambda pipe, a: ImagePrompt(pipe.encode_image_prompt(a, adapter="plus"), adapter="linear"),
        r"features of another kind.*found: .*states; needed: .*embedding",
    ),
    "negative of another kind": (
        lambda pipe, a: ImagePrompt(
            a, adapter="plus", negative=pipe.encode_image_prompt(a, adapter="linear")
        ),
        "the negative embeds come from features of another kind",
    ),
    "unknown mode": (lambda pipe, a: ImagePrompt(a, combine="averge"), "mean 'average'"),
    "unknown mode, no name": (lambda pipe, a: ImagePrompt(a, combine=3), "known: concat"),
    "norm with a hyphen": (
        lambda pipe, a: ImagePrompt(a, combine="norm_average"),
        "mean 'norm average'",
    ),
    "unknown fit": (lambda pipe, a: ImagePrompt(a, fit="centre_crop"), "mean 'center-crop'"),
    "box outside": (
        lambda pipe, a: ImagePrompt(a, fit=(0.0, 0.0, 1.2, 1.0)),
        r"must lie in 0 to 1.*right 1.2",
    ),
    "empty box": (lambda pipe, a: ImagePrompt(a, fit=(0.5, 0.0, 0.5, 1.0)), "have an inside"),
    "box NaN": (lambda pipe, a: ImagePrompt(a, fit=(0.0, 0.0, math.nan, 1.0)), "four numbers"),
    "box of three": (lambda pipe, a: ImagePrompt(a, fit=(0.0, 0.0, 1.0)), "four numbers"),
    "sharpen": (lambda pipe, a: ImagePrompt(a, sharpen=2.0), "from 0 to 1; found: 2.0"),
    "sharpen without end": (lambda pipe, a: ImagePrompt(a, sharpen=10**400), "from 0 to 1"),
    "complex sharpen": (lambda pipe, a: ImagePrompt(a, sharpen=np.complex64(1)), "from 0 to 1"),
    "huge box": (lambda pipe, a: ImagePrompt(a, fit=(0, 0, 10**400, 1)), "four numbers"),
    "fit of embeds": (
        lambda pipe, a: ImagePrompt(pipe.encode_image_prompt(a, adapter="plus"), fit="pad"),
        "embeds are encoded already",
    ),
    "negative path": (lambda pipe, a: ImagePrompt(a, negative="ugly.png"), 'or "noise"'),
    "no negative": (lambda pipe, a: ImagePrompt(a, negative=[]), "negative must be"),
    "negative NaN": (
        lambda pipe, a: ImagePrompt(a, adapter="plus", negative=np.full((4, 4, 3), np.nan)),
        "NaN",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be(name: str, pipe: Pipeline, references: list) -> None:
    make, words = WRONG[name]
    with pytest.raises(RequestError, match=words):
        pipe.stream(image_prompts=[make(pipe, references[0])])  # before the first event


def test_embeds_of_another_encoder(
    tiny: Path, backend: str, pipe: Pipeline, references: list, tmp_path: Path
) -> None:
    """An encoder of the same sizes, and other settings of the same encoder."""
    import json
    import shutil

    from safetensors.numpy import load_file, save_file

    import ipa

    embeds = pipe.encode_image_prompt(references[0], adapter="plus")
    embeds.save(tmp_path / "x.safetensors")
    folders = {"another image encoder": tmp_path / "a", "another preprocessing": tmp_path / "b"}
    for folder in folders.values():
        shutil.copytree(tiny, folder)
    weights = tmp_path / "a" / "image_encoder" / "model.safetensors"
    tensors = load_file(weights)
    (name,) = (n for n in tensors if n.endswith("position_embedding.weight"))
    tensors[name][3, 2] *= -1.0  # a single number of thousands
    save_file(tensors, weights, metadata={"format": "pt"})
    config = tmp_path / "b" / "feature_extractor" / "preprocessor_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}))
    for words, folder in folders.items():
        device = {"device": "cpu"} if backend == "torch" else {}
        other = ipa.load(folder, backend=backend, dtype="float32", **device)
        other.load_ip_adapter(folder / "plus.safetensors", name="plus")
        with pytest.raises(RequestError, match=f"come from {words} than.*found: .*; needed: "):
            other.stream(image_prompts=[ImagePrompt(embeds)])
        with pytest.raises(RequestError, match=words):
            other.load_image_embeds(tmp_path / "x.safetensors")
        with pytest.raises(RequestError, match=words):
            ImageEmbeds.join([embeds, other.encode_image_prompt(references[0])])


def test_files_of_others_that_do_not_fit(pipe: Pipeline, references: list, tmp_path: Path) -> None:
    path = tmp_path / "x.ipadpt"
    write_ipadpt(pipe.encode_image_prompt(references[0], adapter="linear"), path)
    with pytest.raises(CheckpointError, match=r"found: a list of shape \(2, 1, 36\)"):
        pipe.load_image_embeds(path, adapter="plus")
    with pytest.raises(RequestError, match="must name a loaded adapter"):
        pipe.load_image_embeds(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        pipe.load_image_embeds(tmp_path / "none.ipadpt", adapter="plus")
