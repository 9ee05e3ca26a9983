"""What is done to pictures before the adapter, on both backends; the neutral changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import ImagePrompt, Pipeline, RequestError
from ipa.prepare.image_prompts.noise_picture import noise_picture
from oracle.measure import relative

Open = Callable[..., Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 1,
    "guidance_scale": 3.0,
    "width": 64,
    "height": 64,
    "output_type": "latent",
    "seed": 5,
}
MASK = np.tile(np.linspace(0, 1, 96), (64, 1))


@pytest.fixture(scope="module")
def pipe(tiny: Path, backend: str, open_pipeline: Open) -> Pipeline:
    return open_pipeline(tiny, backend, "linear", "plus")


@pytest.fixture(scope="module")
def wide(references: list) -> Image.Image:
    return references[0].resize((96, 64))


def run(pipe: Pipeline, *prompts: ImagePrompt, **changes: Any) -> np.ndarray:
    return pipe("a star", image_prompts=prompts, **(CALL | changes)).latents


def prompt(image: Any, adapter: str = "plus", **options: Any) -> ImagePrompt:
    return ImagePrompt(image, adapter=adapter, **({"fit": "pad"} | options))


NEUTRAL: dict[str, dict[str, Any]] = {
    "a white mask": {"encoder_mask": np.ones((64, 96), np.uint8) * 255},
    "a small white mask": {"encoder_mask": Image.new("1", (3, 2), 1)},
    "a list without masks": {"encoder_mask": [None]},
    "no closer look": {"enhance_tiles": 1, "enhance_ratio": 1.0},
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_values_change_nothing(name: str, pipe: Pipeline, wide: Image.Image) -> None:
    for fit in ("pad", "squash", "center-crop", (0.1, 0.0, 0.7, 1.0)):
        plain = pipe.encode_image_prompt(wide, adapter="plus", fit=fit)
        found = pipe.encode_image_prompt(wide, adapter="plus", fit=fit, **NEUTRAL[name])
        assert np.array_equal(found.conditional, plain.conditional)
    assert np.array_equal(run(pipe, prompt(wide, **NEUTRAL[name])), run(pipe, prompt(wide)))


def test_a_black_mask_is_a_picture_of_the_mean_colour(pipe: Pipeline, wide: Image.Image) -> None:
    """To the encoder that is the picture of nothing, for "states" bit for bit."""
    black = np.zeros((64, 96))
    embeds = pipe.encode_image_prompt(wide, adapter="plus", fit="squash", encoder_mask=black)
    # A batch of another size may change the order of sums: measured 0 on MLX, 1.2e-7 on torch.
    assert relative(embeds.conditional, embeds.unconditional) < 1e-6
    (view,) = pipe.encoder_views(prompt(wide, fit="squash", encoder_mask=black))
    assert np.asarray(view).reshape(-1, 3).tolist() == [[123, 117, 104]] * 28**2


def test_each_picture_has_its_own_mask(pipe: Pipeline, wide: Image.Image) -> None:
    encode = pipe.encode_image_prompt
    both = encode([wide, wide], adapter="plus", fit="pad", encoder_mask=[MASK, None])
    alone = [
        encode(wide, adapter="plus", fit="pad", encoder_mask=mask).conditional[0]
        for mask in (MASK, None)
    ]
    for found, expected in zip(both.conditional, alone, strict=True):
        assert relative(found, expected) < 1e-6
    assert relative(alone[0], alone[1]) > 1e-3
    shared = encode([wide, wide], adapter="plus", fit="pad", encoder_mask=MASK)
    assert relative(shared.conditional[1], alone[0]) < 1e-6
    apart = prompt([wide, wide], encoder_mask=[MASK, None], scale=[0.7, 0.3])
    one, two = prompt(wide, encoder_mask=MASK, scale=0.7), prompt(wide, scale=0.3)
    assert np.array_equal(run(pipe, apart), run(pipe, one, two))


def test_a_closer_look_is_mixed_as_asked(pipe: Pipeline, wide: Image.Image) -> None:
    """Ratio 1 of several is the whole; one picture becomes two rows, which may be combined."""
    pair = [wide, wide.rotate(180)]
    encode = pipe.encode_image_prompt
    plain = encode(pair, adapter="plus", fit="pad")
    whole = encode(pair, adapter="plus", fit="pad", enhance_tiles=2)
    assert np.array_equal(whole.conditional, plain.conditional)
    one = encode(wide, adapter="plus", fit="pad", enhance_tiles=2)
    assert one.conditional.shape[0] == 2 and len(one.unconditional) == 1
    mean = encode(wide, adapter="plus", fit="pad", enhance_tiles=2, combine="average")
    assert np.array_equal(mean.conditional, one.combine("average").conditional)
    away = encode(wide, adapter="plus", fit="pad", enhance_tiles=2, negative=pair[1])
    # Negative pictures are encoded as they are, and repeated.
    assert relative(away.unconditional[1], plain.conditional[1]) < 1e-6
    assert np.array_equal(away.unconditional[0], away.unconditional[1])
    views = [np.asarray(v) for v in pipe.encoder_views(prompt(wide, enhance_tiles=2))]
    padded = Image.new("RGB", (96, 96))
    padded.paste(wide, (0, 16))
    parts = [padded.crop((x, y, x + 48, y + 48)) for y in (0, 48) for x in (0, 48)]
    seen = pipe.encoder_views(prompt([wide, *parts]))
    assert np.array_equal(views, [np.asarray(view) for view in seen])
    given = run(pipe, ImagePrompt(one, adapter="plus"))
    assert np.array_equal(run(pipe, prompt(wide, enhance_tiles=2)), given)


def test_tiles_are_prompts_with_masks(pipe: Pipeline, references: list) -> None:
    """A square of 64 pixels becomes four of 32, each acting in its quarter; a mask multiplies."""
    image = references[0].resize((64, 64), Image.Resampling.LANCZOS)
    half, quarters = np.tile(np.arange(64) < 40, (64, 1)), []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        where = np.zeros((64, 64))
        where[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 1
        tile = image.crop((32 * column, 32 * row, 32 * column + 32, 32 * row + 32))
        quarters.append((tile, where))
    for own in (None, half):
        masks = [where if own is None else where * own for _, where in quarters]
        parts = [prompt(t, mask=m, scale=0.7) for (t, _), m in zip(quarters, masks, strict=True)]
        tiled = prompt(image, fit="tile", mask=own, scale=0.7)
        assert np.array_equal(run(pipe, tiled), run(pipe, *parts))
    views = pipe.encoder_views(prompt(image, fit="tile"))
    (first,) = pipe.encoder_views(prompt(quarters[0][0]))
    assert len(views) == 4 and np.array_equal(np.asarray(views[0]), np.asarray(first))


def test_tiles_of_several_pictures_each_on_their_own(pipe: Pipeline, references: list) -> None:
    a, b = references[0].resize((90, 40)), references[1]
    masks = [np.ones((64, 64)), np.tile(np.arange(64) < 40, (64, 1))]
    options: dict[str, Any] = {"fit": "tile", "encoder_mask": None}
    both = prompt([a, b], mask=masks, scale=[0.7, 0.4], **options)
    one = prompt(a, mask=masks[0], scale=0.7, **options)
    two = prompt(b, mask=masks[1], scale=0.4, **options)
    assert np.array_equal(run(pipe, both), run(pipe, one, two))
    assert len(pipe.encoder_views(both)) == 3 + 4


def test_a_mask_on_a_picture_is_cut_as_it_is(pipe: Pipeline, references: list) -> None:
    """Black over one tile of four, or over one part of four: the others are seen as before."""
    image, mask = references[0].resize((64, 64)), np.ones((64, 64))
    mask[:32, 32:] = 0
    plain, masked = (
        [np.asarray(v) for v in pipe.encoder_views(prompt(image, fit="tile", encoder_mask=m))]
        for m in (None, mask)
    )
    for number, (one, two) in enumerate(zip(plain, masked, strict=True)):
        assert np.array_equal(one, two) == (number != 1)
    assert len(np.unique(masked[1].reshape(-1, 3), axis=0)) == 1


def test_noise_of_a_kind_is_of_the_first_picture(pipe: Pipeline, wide: Image.Image) -> None:
    kept = {}
    for text, options in (
        ("noise", None),
        ("noise:dissolve", ("dissolve",)),
        ("noise:shuffle:0.4", ("shuffle", 0.4)),
        ("noise:gaussian:0.3:5", ("gaussian", 0.3, 5)),
    ):
        made = noise_picture() if options is None else noise_picture(wide, *options)
        given, named = (
            pipe.encode_image_prompt(wide, adapter="linear", negative=negative).unconditional
            for negative in (made, text)
        )
        assert np.array_equal(named, given)
        kept[named.tobytes()] = text
    assert len(kept) == 4
    tiled = prompt(wide, fit="tile", negative="noise:fade:0.5")
    made = prompt(wide, fit="tile", negative=noise_picture(wide, "fade", 0.5))
    assert np.array_equal(run(pipe, tiled), run(pipe, made))


def test_the_record_says_all_of_it(pipe: Pipeline, wide: Image.Image) -> None:
    options: dict[str, Any] = {"enhance_tiles": 2, "enhance_ratio": 0.5}
    asked = prompt([wide, wide], encoder_mask=[MASK, None], negative="noise:fade:0.5", **options)
    bare = ImagePrompt(wide, adapter="linear", fit="tile")
    info = json.loads(json.dumps(pipe("", image_prompts=[asked, bare], **CALL).info))
    one, two = info["request"]["image_prompts"]
    assert one["encoder_masks"][0]["width"] == 96 and one["encoder_masks"][1] is None
    assert {name: one[name] for name in options} == options
    assert one["negative"] == "noise:fade:0.5"
    assert (two["fit"], two["encoder_masks"], two["enhance_tiles"]) == ("tile", None, 1)
    assert two["neg_content_prompt"] is None and info["warnings"] == []


# How to make a prompt that cannot be, and what the message must say.
WRONG: dict[str, tuple[Callable[[Any, Pipeline], ImagePrompt], str]] = {
    "a closer look for a pooled embedding": (
        lambda p, _: prompt(p, "linear", enhance_tiles=2),
        "does not fit adapter 'linear'; found: .*pooled embedding.*states of a grid",
    ),
    "no tiles": (lambda p, _: prompt(p, enhance_tiles=0), "from 1 to 16; found: 0"),
    "too many tiles": (lambda p, _: prompt(p, enhance_tiles=17), "from 1 to 16"),
    "a truth": (lambda p, _: prompt(p, enhance_tiles=True), "from 1 to 16"),
    "half a tile": (lambda p, _: prompt(p, enhance_tiles=1.5), "from 1 to 16"),
    "more tiles than pixels": (
        lambda p, _: prompt(p.resize((30, 8)), fit="top", enhance_tiles=9),
        "too small for enhance_tiles=9; found: 8 × 8",
    ),
    "ratio": (lambda p, _: prompt(p, enhance_tiles=2, enhance_ratio=1.5), "from 0 to 1"),
    "ratio alone": (lambda p, _: prompt(p, enhance_ratio=0.5), "no effect without enhance_tiles"),
    "mask of another aspect": (
        lambda p, _: prompt(p, encoder_mask=np.ones((64, 64))),
        "another aspect than its picture; found: 64 × 64, the picture is 96 × 64",
    ),
    "masks of other numbers": (
        lambda p, _: prompt([p, p], encoder_mask=[MASK]),
        "one entry per picture.*1 entries, 2 needed.*one encoder_mask for all",
    ),
    "no mask": (lambda p, _: prompt(p, encoder_mask="m.png"), "encoder_mask cannot be used"),
    "embeds with a mask": (
        lambda p, pipe: ImagePrompt(
            pipe.encode_image_prompt(p, adapter="plus", fit="pad"), encoder_mask=MASK
        ),
        "embeds are encoded already; found: encoder_mask",
    ),
    "embeds looked at closer": (
        lambda p, pipe: ImagePrompt(
            pipe.encode_image_prompt(p, adapter="plus", fit="pad"), enhance_tiles=2
        ),
        "embeds are encoded already; found: enhance_tiles=2",
    ),
    "embeds gone under": (
        lambda p, pipe: ImagePrompt(
            pipe.encode_image_prompt(p, adapter="plus", fit="pad"), negative="noise:fade"
        ),
        "made of the prompt's first picture",
    ),
    "tiles that become one": (
        lambda p, _: prompt([p, p], fit="tile", combine="add"),
        "cut into tiles cannot become one",
    ),
    "a kind of noise": (lambda p, _: prompt(p, negative="noise:shufle"), "mean 'shuffle'"),
    "noise as words": (lambda p, _: prompt(p, negative="noise:fade:much"), "noise:KIND:STRENGTH"),
    "too much noise": (lambda p, _: prompt(p, negative="noise:fade:2"), "from 0 to 1; found: 2.0"),
    "an even blur": (lambda p, _: prompt(p, negative="noise:fade:1:4"), "odd number of pixels"),
    "noise with a tail": (lambda p, _: prompt(p, negative="noise:fade:1:3:9"), 'or "noise"'),
    "a text from states": (
        lambda p, _: prompt(p, neg_content_prompt="a cat"),
        "adapter 'plus' is given; found: hidden states.*no projected text.*SDXL with its base",
    ),
    "a text that the model cannot place": (
        lambda p, _: prompt(p, "linear", neg_content_prompt="a cat", neg_content_scale=0),
        "adapter 'linear' is given; found: .*projection_dim 36; .* has no projected text",
    ),
    "no text": (lambda p, _: prompt(p, neg_content_prompt=" "), "must be a text that says what"),
    "a number for a text": (lambda p, _: prompt(p, neg_content_prompt=3), "must be a text"),
    "scale of no text": (lambda p, _: prompt(p, neg_content_scale=0.5), "no effect without neg_c"),
    "endless scale": (
        lambda p, _: prompt(p, neg_content_prompt="a cat", neg_content_scale=np.inf),
        "neg_content_scale must be a finite number",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be(name: str, pipe: Pipeline, wide: Image.Image) -> None:
    make, words = WRONG[name]
    with pytest.raises(RequestError, match=words):
        pipe.stream(image_prompts=[make(wide, pipe)])  # before the first event


def test_tiles_are_no_embeds(pipe: Pipeline, wide: Image.Image) -> None:
    with pytest.raises(RequestError, match="tiles are prompts of their own"):
        pipe.encode_image_prompt(wide, adapter="plus", fit="tile")


def test_widths_of_texts_and_pictures_must_agree(
    tiny_xl: Path, backend: str, open_pipeline: Open, wide: Image.Image
) -> None:
    """An encoder of 36 and texts of 64: SDXL's adapters for ViT-H are such."""
    own = open_pipeline(tiny_xl, backend, "linear")
    with pytest.raises(RequestError, match=r"projection_dim 36; .* has texts of width 64"):
        own.stream(image_prompts=[prompt(wide, "linear", neg_content_prompt="a cat")])
