"""What lies over a picture is cropped with it: given whole it is what it is cropped by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import Control, ImagePrompt, Pipeline, RequestError
from ipa.prepare.controls.preprocessors import edges
from ipa.prepare.editing.inpainting import crop_box, cropped, cropped_mask
from ipa.prepare.image_prompts.tiles import tiled
from ipa.prepare.scaling.masks import Canvas
from ipa.request.editing import Crop
from ipa.request.masks import mask_values
from ipa.sheets.mask_overlay import overlay
from oracle import controlled, models, t2i_adapters
from oracle.measure import relative
from oracle.workshop import Workshop

SIZE, WHOLE, PADDING = (48, 32), (96, 72), 4
BOX = (34, 26, 70, 50)  # of the run's aspect: nothing is filled
SHARED: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "seed": 5,
    "width": SIZE[0],
    "height": SIZE[1],
    "strength": 1.0,
    "output_type": "latent",
}
# The very same numbers are computed. Relative L2 of the latents: measured 0 on both backends, on
# torch whether its products are steady or not; another order of sums makes 1.9e-6
# (tests/laws/test_loras.py). MLX: no bit.
ROUNDING = {"mlx": 0.0, "torch": 4e-6}

SPOT = np.zeros(WHOLE[::-1], bool)
SPOT[30:46, 40:64] = True
LEFT = np.tile(np.arange(WHOLE[0]) < 50, (WHOLE[1], 1))
SOFT = np.linspace(0, 1, WHOLE[0] * WHOLE[1], dtype=np.float32).reshape(WHOLE[::-1]) ** 2
COLOURS = Image.fromarray(controlled.edges(WHOLE, 1))
OTHER = Image.fromarray(controlled.edges(WHOLE, 2))
HOLED = np.where(SPOT[..., None], -1, np.asarray(OTHER) / np.float32(255)).astype(np.float32)


def cut(given: Any) -> Any:
    """By hand: the pixels that lie in the box."""
    left, top, right, bottom = BOX
    return given.crop(BOX) if isinstance(given, Image.Image) else given[top:bottom, left:right]


def _drawn(picture: Any) -> Image.Image:
    return edges(picture)


def _tiles(references: list[Image.Image]) -> tuple[ImagePrompt, ...]:
    """Tiles lie over the whole picture; each has a mask of its own."""
    prompt = ImagePrompt(references[0], fit="tile", mask=SOFT, adapter="linear")
    canvas = Canvas(*WHOLE, (), (1, 1))
    return tuple(
        replace(tile.prompt, mask=cut(tile.mask), mask_fit=tile.mask_fit)
        for tile in tiled(prompt, 28, canvas, "it")
    )


def _prompt(mask: Any, pictures: Any, **options: Any) -> dict[str, Any]:
    return {"image_prompts": ImagePrompt(pictures, mask=mask, adapter="linear", **options)}


Maker = Callable[[Callable[[Any], Any], list[Image.Image]], dict[str, Any]]
# Arguments of a call, of which `to` is the identity, or cuts by hand.
OVER: dict[str, Maker] = {
    "control": lambda to, _: {"controls": Control(to(COLOURS), name="net")},
    "control of an array": lambda to, _: {"controls": Control(to(np.asarray(OTHER)), name="net")},
    "two controls": lambda to, _: {
        "controls": [Control(to(COLOURS), name="net"), Control(to(OTHER), name="net", scale=0.4)]
    },
    "control_image": lambda to, _: {"controlnet_image": to(COLOURS)},
    "preprocessed": lambda to, _: {
        "controls": Control(to(_drawn(COLOURS)), name="net")
        if to is cut
        else Control(COLOURS, name="net", preprocessor=edges)
    },
    "control with a mask": lambda to, _: {
        "controls": Control(to(OTHER), name="net", mask=to(SPOT))
    },
    "control with -1": lambda to, _: {"controls": Control(to(HOLED), name="net")},
    "T2I-Adapter": lambda to, _: {"controls": Control(to(COLOURS), name="sketch")},
    "grey T2I-Adapter": lambda to, _: {"controls": Control(to(COLOURS), name="grey")},
    "T2I-Adapter beside a ControlNet": lambda to, _: {
        "controls": [Control(to(COLOURS), name="sketch"), Control(to(OTHER), name="net")]
    },
    "mask": lambda to, seen: _prompt(to(LEFT), seen[0]),
    "soft mask": lambda to, seen: _prompt(to(SOFT), seen[0]),
    "masks of pictures": lambda to, seen: _prompt([to(LEFT), None, to(~LEFT)], seen[:3]),
    "binary masks": lambda to, seen: _prompt(to(LEFT), seen[0]) | {"profile": "diffusers"},
    "ComfyUI's masks": lambda to, seen: _prompt(to(SOFT), seen[0]) | {"profile": "comfyui"},
    "tiles": lambda to, seen: {
        "image_prompts": _tiles(seen)
        if to is cut
        else ImagePrompt(seen[0], fit="tile", mask=SOFT, adapter="linear")
    },
    "all at once": lambda to, seen: (
        _prompt(to(LEFT), seen[0])
        | {"controls": [Control(to(OTHER), name="net"), Control(to(COLOURS), name="sketch")]}
    ),
}


@pytest.fixture(scope="module")
def model(workshop: Workshop) -> Path:
    """With adapters, a ControlNet and T2I-Adapters beside it."""
    folder = workshop.model("crops", models.Tiny(unet=t2i_adapters.UNET), seed=31)
    workshop.made(
        "crops/net", lambda path: controlled.write_controlnet(path, t2i_adapters.UNET, seed=7)
    )
    for name, changes in {"sketch": {}, "grey": {"in_channels": 1}}.items():
        own = t2i_adapters.FULL | changes
        workshop.made(
            f"crops/{name}", lambda path, own=own: t2i_adapters.write_t2i_adapter(path, 9, **own)
        )
    return folder


@pytest.fixture(scope="module")
def pipe(backend: str, model: Path, open_pipeline: Callable[..., Pipeline]) -> Pipeline:
    pipe = open_pipeline(model, backend, "linear")
    pipe.load_controlnet(model / "net", name="net")
    for name in ("sketch", "grey"):
        pipe.load_t2i_adapter(model / name, name=name)
    return pipe


def whole(**changes: Any) -> dict[str, Any]:
    given = {"image": COLOURS, "mask_image": SPOT, "padding_mask_crop": PADDING}
    return SHARED | given | changes


def by_hand(**changes: Any) -> dict[str, Any]:
    return SHARED | {"image": cut(COLOURS), "mask_image": cut(SPOT)} | changes


@pytest.fixture(scope="module")
def base(pipe: Pipeline) -> np.ndarray:
    """With nothing over the picture."""
    return pipe("a star", **whole()).latents


def test_the_box_is_the_one_that_is_cut_by_hand() -> None:
    mask = Image.fromarray(SPOT.astype(np.uint8) * 255)
    assert crop_box(mask, *SIZE, PADDING, "it") == BOX


@pytest.mark.parametrize("name", OVER)
def test_given_whole_is_cropped_by_hand(
    name: str, pipe: Pipeline, backend: str, base: np.ndarray, references: list[Image.Image]
) -> None:
    same = OVER[name](lambda given: given, references)
    found = pipe("a star", **whole(**same))
    expected = pipe("a star", **by_hand(**OVER[name](cut, references))).latents
    assert relative(found.latents, expected) <= ROUNDING[backend]
    assert not [text for text in found.info["warnings"] if "middle block" not in text]
    assert relative(found.latents, base) > 1e-2  # it acts at all: 4.5e-2 measured


def test_a_mask_outside_is_no_prompt(
    pipe: Pipeline, backend: str, base: np.ndarray, references: list[Image.Image]
) -> None:
    """λ is 0, and a warning says so; one of ones is no mask, bit for bit."""
    outside = np.zeros(WHOLE[::-1], bool)
    outside[:20] = True
    missed = pipe("a star", **whole(**_prompt(outside, references[0])))
    assert np.array_equal(missed.latents, base)
    assert missed.info["warnings"] == [
        "image prompt 1: its mask lies outside of what padding_mask_crop works on, so that it does "
        "nothing here"
    ]
    both = pipe("a star", **whole(**_prompt([outside, ~outside], references[:2])))
    alone = pipe("a star", **whole(**_prompt(None, references[1]))).latents
    assert relative(both.latents, alone) <= ROUNDING[backend]
    assert "image prompt 1, picture 1: its mask lies outside" in both.info["warnings"][0]
    covered = pipe("a star", **whole(**_prompt(~outside, references[1]))).latents
    assert np.array_equal(covered, alone)
    assert not pipe("a star", **whole(**_prompt(outside & False, references[0]))).info["warnings"]


def test_what_was_cropped_by_hand_before_is_told(
    pipe: Pipeline, references: list[Image.Image]
) -> None:
    """It is taken to lie over all of the picture, whatever its size."""
    for size in ((36, 24), SIZE):
        control = Control(COLOURS.resize(size), name="net")
        (told,) = pipe("a star", **whole(controls=control)).info["warnings"]
        assert f"the picture of control 1 is {size[0]} × {size[1]}" in told
    half = Control(COLOURS.resize((48, 36)), name="net")
    assert not pipe("a star", **whole(controls=half)).info["warnings"]
    mask = _prompt(np.ones((24, 36)), references[0], mask_fit="stretch")
    (told,) = pipe("a star", **whole(**mask)).info["warnings"]
    assert "the mask of image prompt 1 is 36 × 24" in told


def test_each_prompt_has_its_own_crop(
    pipe: Pipeline, backend: str, references: list[Image.Image]
) -> None:
    """And with it its own part of a control; side by side there can be but one."""
    second = np.roll(SPOT, (-20, -30), (0, 1))
    control = Control([COLOURS, OTHER], name="net", mask=[None, SPOT], batched=True)
    given = {"image": [COLOURS, OTHER], "mask_image": [SPOT, second]}
    mask = _prompt(LEFT, references[0])
    both = pipe(["a star", "a ring"], **whole(controls=control, **given, **mask))
    for number, text in enumerate(("a star", "a ring")):
        own: dict[str, Any] = {name: entries[number] for name, entries in given.items()}
        own |= {"controls": control.share(number), "seed": 5 + number} | mask
        alone = pipe(text, **whole(**own))
        assert relative(both.latents[number], alone.latents[0]) <= ROUNDING[backend]
        box = alone.info["request"]["crop_boxes"]
        assert [both.info["request"]["crop_boxes"][number]] == box
    for over, told in (
        ({"controls": control.share(0)}, "controls are cropped"),
        (mask, "masks of image prompts are cropped"),
        (_prompt(None, references[0], fit="tile"), "'tile' are cropped"),
    ):
        with pytest.raises(RequestError, match=told):
            pipe("a star", **whole(num_images=2, **given, **over))
    assert len(pipe("a star", **whole(num_images=2, **given)).latents) == 2


def test_influence_says_where_it_lies(pipe: Pipeline, references: list[Image.Image]) -> None:
    second = np.roll(SPOT, (-20, -30), (0, 1))
    given = {"mask_image": [SPOT, second], "num_images": 2, "influence": True}
    result = pipe("a star", **whole(**given, **_prompt(None, references[0])))
    influence = result.influence
    assert influence is not None and influence.map(0).shape == (4, 6)
    assert influence.crop(0) == Crop(WHOLE, BOX)
    boxes = result.info["request"]["crop_boxes"]
    assert [entry["crop_box"] for entry in result.info["influence"]] == boxes
    assert boxes[0] == list(BOX) and boxes[1] != boxes[0]
    assert influence.arrays()["crop_box"].tolist() == boxes
    assert influence.arrays()["crop_size"].tolist() == [list(WHOLE)] * 2
    plain = pipe("a star", **by_hand(influence=True, **_prompt(None, references[0])))
    assert plain.influence is not None and plain.influence.crop() is None
    assert "crop_box" not in plain.info["influence"][0] and "crop_box" not in (
        plain.influence.arrays()
    )


def test_an_overlay_is_put_back() -> None:
    """Heat lies in the box alone; where the crop was filled up, without what filled it."""
    grey = Image.new("L", WHOLE, 128)
    shares = np.ones((4, 6), np.float32)
    placed = np.asarray(overlay(grey, shares, 1.0, Crop(WHOLE, BOX))).astype(int)
    inside = np.zeros(WHOLE[::-1], bool)
    inside[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    assert (placed[~inside] == 128).all() and (placed[inside][:, 0] > 150).all()
    small = np.asarray(overlay(grey.resize((48, 36)), shares, 1.0, Crop(WHOLE, BOX))).astype(int)
    assert np.array_equal(small[..., 0] != 128, inside[::2, ::2])
    shares[:, 2:4] = 0.0  # the middle: all that a crop of 2 × 4 pixels shows of 6 × 4
    thin = np.asarray(overlay(grey, shares, 1.0, Crop(WHOLE, (10, 10, 12, 14)))).astype(int)
    assert (thin[10:14, 10:12, 0] < 128).all()


def test_filled_masks_are_filled_as_pictures() -> None:
    """A crop of another aspect than the run's: edges are drawn out, in soft values too."""
    crop = Crop(WHOLE, (10, 5, 40, 60))
    for mask in (LEFT.astype(np.float32), SOFT):
        grey = Image.fromarray(np.round(mask * 255).astype(np.uint8))
        as_picture = np.asarray(cropped(grey, *SIZE, crop).convert("L")) / 255
        soft = cropped_mask(mask_values(mask, "it"), *SIZE, crop)
        assert soft.shape == SIZE[::-1]
        assert np.abs(soft - as_picture).max() <= 1.01 / 255
    half = cropped_mask(SOFT[::2, ::2], *SIZE, Crop(WHOLE, BOX))
    assert half.shape == (24, 36) and np.abs(half - cut(SOFT)).max() < 0.02
