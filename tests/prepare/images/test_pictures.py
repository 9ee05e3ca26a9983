"""One entry for pictures: of every mode and kind they are the 8-bit RGB picture, wherever given."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diffusers.utils import load_image
from PIL import Image

from ipa import Control, ImagePrompt, Pipeline, RequestError
from ipa.model.preprocessor import ClipPreprocessor
from ipa.prepare.controls.pixels import adapter_pixels, control_pixels
from ipa.prepare.controls.preprocessors import edges
from ipa.prepare.editing.edits import plan_edits, start_size
from ipa.prepare.editing.outpainting import outpaint
from ipa.prepare.image_prompts.encoder_masks import seen_masks
from ipa.prepare.image_prompts.noise_picture import noise_picture, with_noise
from ipa.prepare.image_prompts.tiles import tile_prompts
from ipa.prepare.images.clip import clip_pixels, encoder_views
from ipa.prepare.images.pictures import open_image, to_rgb, vae_pixels
from ipa.request.masks import mask_values
from ipa.request.pictures import eight_bits, picture_sha256
from ipa.request.request import Request
from ipa.sheets.likeness import Likeness
from ipa.sheets.mask_overlay import overlay
from ipa.sheets.sheet import _fitted
from oracle.controlled import edges as waves

SIZE = (40, 24)
COLOUR = Image.fromarray(waves(SIZE, 3))
GREY = COLOUR.convert("L")
LEVELS = np.asarray(GREY)
FEW = COLOUR.quantize(16)
ALONE = GREY.point(lambda value: 255 if value > 99 else 0)
STORED = {  # how a camera stores what EXIF's orientation turns upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def _file(image: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    """As `Image.open` gives it: not decoded yet."""
    held = io.BytesIO()
    image.save(held, kind, **options)
    return Image.open(io.BytesIO(held.getvalue()))


def _turned(orientation: int, image: Image.Image = COLOUR, kind: str = "PNG") -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _file(image.transpose(STORED[orientation]), kind, exif=exif)


def _deep(dtype: Any = np.uint16) -> np.ndarray:
    return LEVELS.astype(dtype) * 257


def _converted(mode: str) -> tuple[Image.Image, Image.Image]:
    own = COLOUR.convert(mode)
    return own, own.convert("RGB")


def _photo(kind: str, **options: Any) -> tuple[Image.Image, Image.Image]:
    return _file(COLOUR, kind, **options), _file(COLOUR, kind, **options).convert("RGB")


def _lab() -> tuple[Image.Image, Image.Image]:
    own = Image.frombytes("LAB", SIZE, np.random.default_rng(4).bytes(SIZE[0] * SIZE[1] * 3))
    return own, own.convert("RGB")


Pair = tuple[Any, Image.Image]
MODES: dict[str, Callable[[], Pair]] = {
    "L": lambda: (GREY, GREY),
    "1": lambda: (ALONE.convert("1"), ALONE),
    "LA, opaque": lambda: (GREY.convert("LA"), GREY),
    "RGBA, opaque": lambda: (COLOUR.convert("RGBA"), COLOUR),
    "RGBX": lambda: (COLOUR.convert("RGBX"), COLOUR),
    "RGBa": lambda: (COLOUR.convert("RGBA").convert("RGBa"), COLOUR),
    "La": lambda: (GREY.convert("LA").convert("La"), GREY),
    "P": lambda: (FEW, FEW.convert("RGB")),
    "PA, opaque": lambda: (FEW.convert("PA"), FEW.convert("RGB")),
    "CMYK": lambda: _converted("CMYK"),
    "YCbCr": lambda: _converted("YCbCr"),
    "HSV": lambda: _converted("HSV"),
    "LAB": _lab,
    "I;16": lambda: (Image.fromarray(_deep()), GREY),
    "I;16B": lambda: (Image.fromarray(_deep().astype(">u2")), GREY),
    "I;16, every value": lambda: (Image.fromarray(_deep() + 64), GREY),
    "I of 16 bits": lambda: (Image.fromarray(_deep(np.int32)), GREY),
    "I of 8 bits": lambda: (Image.fromarray(LEVELS.astype(np.int32)), GREY),
    "F in [0, 1]": lambda: (Image.fromarray((LEVELS / 255).astype(np.float32)), GREY),
    "F in [0, 255]": lambda: (Image.fromarray(LEVELS.astype(np.float32)), GREY),
    "16-bit PNG": lambda: (_file(Image.fromarray(_deep())), GREY),
    "16-bit PNG, turned": lambda: (_turned(6, Image.fromarray(_deep())), GREY),
    "16-bit TIFF": lambda: (_file(Image.fromarray(_deep()), "TIFF"), GREY),
    "int32 TIFF": lambda: (_file(Image.fromarray(_deep(np.int32)), "TIFF"), GREY),
    "float TIFF": lambda: (
        _file(Image.fromarray((LEVELS / 255).astype(np.float32)), "TIFF"),
        GREY,
    ),
    "turned TIFF": lambda: (_turned(8, kind="TIFF"), COLOUR),
    "turned, then RGB": lambda: (_turned(6).convert("RGB"), COLOUR),
    "JPEG": lambda: _photo("JPEG"),
    "CMYK JPEG": lambda: (
        _file(COLOUR.convert("CMYK"), "JPEG", quality=100),
        _file(COLOUR.convert("CMYK"), "JPEG", quality=100).convert("RGB"),
    ),
    "MPO": lambda: _photo("MPO", save_all=True, append_images=[COLOUR.rotate(180)]),
    "GIF of two frames": lambda: (
        _file(FEW, "GIF", save_all=True, append_images=[FEW.rotate(180)]),
        FEW.convert("RGB"),
    ),
    "uint8": lambda: (np.asarray(COLOUR), COLOUR),
    "uint8, grey": lambda: (LEVELS, GREY),
    "uint16": lambda: (np.asarray(COLOUR).astype(np.uint16) * 257, COLOUR),
    "uint16, grey": lambda: (_deep(), GREY),
    "float16": lambda: ((LEVELS / 255).astype(np.float16), GREY),
    "float32": lambda: ((np.asarray(COLOUR) / 255).astype(np.float32), COLOUR),
    "float64": lambda: (np.asarray(COLOUR) / 255, COLOUR),
    "bool": lambda: (np.asarray(ALONE) > 0, ALONE),
} | {
    f"EXIF {orientation}": lambda orientation=orientation: (_turned(orientation), COLOUR)
    for orientation in STORED
}
"""By name: a picture, and the 8-bit one that it is."""
KEPT = {"I;16, every value": 0.5 / 255, "float16": 1e-3}
"""Soft masks keep what is finer than 8 bits: so far they are from those."""
RECIPE = {"size": {"shortest_edge": 20}, "crop_size": {"height": 20, "width": 20}}


def _edits(**given: Any) -> Any:
    """What a run starts from; of a model only sizes are asked."""
    request = Request(**({"image": COLOUR} | given))
    edits = plan_edits(request, _Model, *SIZE)  # type: ignore[arg-type]
    assert edits is not None
    return edits.sources[0]


_Model = SimpleNamespace(
    name="it", unet=SimpleNamespace(in_channels=4), vae=SimpleNamespace(latent_channels=4)
)


def _tiles(picture: Any) -> np.ndarray:
    found = tile_prompts(ImagePrompt(picture, fit="tile"), 20)
    return np.stack([np.asarray(tile.image) for tile, _ in found])


COLOURED: dict[str, Callable[[Any], Any]] = {
    "to_rgb": to_rgb,
    "image prompt": lambda picture: clip_pixels([picture], RECIPE),
    "image prompt, padded": lambda picture: clip_pixels([picture], RECIPE, "pad"),
    "image prompt, as ComfyUI": lambda picture: clip_pixels([picture], RECIPE, resize="floats"),
    "what the encoder sees": lambda picture: encoder_views([picture], RECIPE)[0],
    "tiles": _tiles,
    "noise of it": lambda picture: noise_picture(picture, "fade", 0.5),
    "noise to steer away from": lambda picture: (
        with_noise(ImagePrompt(picture, negative="noise:fade:0.5")).negative
    ),
    "image": lambda picture: _edits(image=picture).pixels(),
    "image's size": lambda picture: np.array(start_size(Request(image=picture), 8)),
    "vae_pixels": lambda picture: vae_pixels(picture, *SIZE),
    "control": lambda picture: control_pixels(Control(picture), *SIZE),
    "control, preprocessed": lambda picture: control_pixels(
        Control(COLOUR, preprocessor=lambda _: picture), *SIZE
    ),
    "control, as a preprocessor sees it": lambda picture: control_pixels(
        Control(picture, preprocessor=lambda rgb: rgb), *SIZE
    ),
    "T2I-Adapter": lambda picture: adapter_pixels(Control(picture), *SIZE, 3),
    "grey T2I-Adapter": lambda picture: adapter_pixels(Control(picture), *SIZE, 1),
    "edges": edges,
    "outpaint": lambda picture: outpaint(picture, right=8)[0],
    "a cell of a sheet": lambda picture: _fitted(picture, (20, 20)),
    "under heat": lambda picture: overlay(picture, np.ones((3, 5), np.float32)),
}
"""Where a picture is looked at: functions of a picture, with an array or picture for a result."""

SOLID: dict[str, Callable[[Any], Any]] = {
    "mask": lambda mask: mask_values(mask, "it"),
    "masks of pictures": lambda mask: ImagePrompt([COLOUR] * 2, mask=[mask, None]).mask[0],
    "mask_image": lambda mask: _edits(mask_image=mask).mask,
    "mask_image, blurred": lambda mask: _edits(mask_image=mask, mask_blur=2.0).mask,
    "mask of a control": lambda mask: control_pixels(Control(COLOUR, mask=mask), *SIZE),
    "encoder mask": lambda mask: seen_masks(
        ImagePrompt(COLOUR, encoder_mask=mask), ClipPreprocessor.from_config(RECIPE)
    )[0],
}
"""The same of masks."""


@pytest.mark.parametrize("entry", [*COLOURED, *SOLID])
def test_every_mode_is_its_8_bit_picture(entry: str) -> None:
    look = (COLOURED | SOLID)[entry]
    seen = functools.cache(lambda pixels, size: np.asarray(look(_rgb(pixels, size)), float))
    wrong = {}
    for mode, make in MODES.items():
        given, plain = make()
        if entry in SOLID and isinstance(given, np.ndarray) and given.ndim == 3:
            given, plain = given[..., 0], plain.getchannel(0)  # an array of colours is no mask
        # Masks that are RGB are blurred so, as in diffusers; of others their luminance is.
        is_grey = "blurred" in entry and eight_bits(given).mode != "RGB"
        same = plain.convert("RGB").convert("L") if is_grey else plain.convert("RGB")
        found, expected = np.asarray(look(given), float), seen(same.tobytes(), same.size)
        close = (
            KEPT.get(mode, 1e-7) if entry in {"mask", "masks of pictures", "encoder mask"} else 0
        )
        if found.shape != expected.shape or np.abs(found - expected).max() > close:
            wrong[mode] = (found.shape, np.abs(found - expected).max())
    assert not wrong


def _rgb(pixels: bytes, size: tuple[int, int]) -> Image.Image:
    return Image.frombytes("RGB" if len(pixels) == 3 * size[0] * size[1] else "L", size, pixels)


@pytest.mark.parametrize("mode", MODES)
def test_a_file_is_what_its_picture_is(mode: str, tmp_path: Path) -> None:
    """`open_image`, which the command line uses for all; and the hash by which it is found."""
    given, plain = MODES[mode]()
    name = {"GIF of two frames": "a.gif", "MPO": "a.mpo"}.get(mode)
    if getattr(given, "format", None) is None:
        assert np.array_equal(to_rgb(eight_bits(given)), to_rgb(given))  # never repaired twice
        return
    path = tmp_path / (name or f"a.{given.format.lower()}")
    held = given.fp
    held.seek(0)
    path.write_bytes(held.read())
    found = open_image(path)
    assert np.array_equal(to_rgb(found), plain.convert("RGB"))
    assert picture_sha256(found) == picture_sha256(given)


def test_every_picture_of_a_call_is_the_8_bit_one(
    tiny: Path, backend: str, open_pipeline: Callable[..., Pipeline]
) -> None:
    """Whole runs: the image prompt, the negative, the start, the mask; embeds, views, likeness."""
    pipe = open_pipeline(tiny, backend, "linear")
    call = {"num_inference_steps": 2, "strength": 1.0, "seed": 3, "output_type": "latent"}
    for deep, plain in (MODES["16-bit PNG, turned"](), MODES["I of 16 bits"]()):
        runs, seen = [], []
        for grey in (deep, plain):
            prompt = ImagePrompt(grey, negative=grey, encoder_mask=grey, mask=grey)
            start = {"image": grey, "mask_image": grey}
            runs.append(pipe("a star", image_prompts=prompt, **start, **call))
            seen.append(pipe.encode_image_prompt([grey, COLOUR], negative=[grey]))
            seen.append(pipe.encoder_views(replace(prompt, mask=None))[0])
            seen.append(pipe.embed_images([grey]))
            seen.append(Likeness(pipe).of(COLOUR, ImagePrompt(grey)))
        assert np.abs(runs[0].latents - runs[1].latents).max() <= 1e-5
        told = [run.info["request"] for run in runs]
        assert told[0]["image_prompts"] == told[1]["image_prompts"]
        assert told[0]["image_sha256"] == told[1]["image_sha256"]
        for one, two in zip(seen[:4], seen[4:], strict=True):
            if hasattr(one, "conditional"):
                one, two = (np.stack([e.unconditional[0], e.conditional[0]]) for e in (one, two))
            assert np.allclose(np.asarray(one, float), np.asarray(two, float), atol=1e-6)


def test_turned_pictures_are_diffusers() -> None:
    """Its load_image turns a PIL picture too."""
    for orientation in STORED:
        assert np.array_equal(to_rgb(_turned(orientation)), load_image(_turned(orientation)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow says so
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_exif_turns_nothing(kind: str, tmp_path: Path) -> None:
    for exif in (b"junk", b"Exif\0\0", b"Exif\0\0junkjunk", b"Exif\0\0II*\0\xff\xff\xff\0"):
        path = tmp_path / f"a.{kind.lower()}"
        GREY.save(path, kind, exif=exif)
        plain = np.asarray(Image.open(path))
        assert np.array_equal(open_image(path), plain)
        assert np.array_equal(eight_bits(Image.open(path)), plain)


def test_what_is_sound_is_left_alone() -> None:
    for picture in (COLOUR, GREY, FEW, COLOUR.convert("RGBA")):
        assert eight_bits(picture) is picture
    turned = _turned(6)
    once = eight_bits(turned)
    assert eight_bits(once) is once and once.size == SIZE
    assert turned.size == SIZE[::-1]  # the user's own is not touched


def test_every_value_of_16_bits() -> None:
    """v / 257 rounded, to the nearest of 256 that stand evenly in 65,536."""
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(wide / 257).astype(np.uint8)
    assert np.array_equal(eight_bits(wide), expected)
    for image in (Image.fromarray(wide), Image.fromarray(wide.astype(np.int32))):
        assert np.array_equal(eight_bits(image), expected)
    assert set(np.bincount(expected.reshape(-1))[1:-1]) == {257}


def test_a_clear_grey_of_16_bits_lies_on_white() -> None:
    wide = np.array([[0, 25700], [65535, 25700]], np.uint16)
    image = _file(Image.fromarray(wide), transparency=25700)
    assert np.asarray(to_rgb(image))[..., 0].tolist() == [[0, 255], [255, 255]]
    with pytest.raises(RequestError, match="partly transparent"):
        mask_values(image, "a mask")


def _picture(numbers: Any, dtype: Any) -> Image.Image:
    return Image.fromarray(np.array([numbers], dtype))


def _damaged() -> Image.Image:
    held = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(held, "PNG")
    return Image.open(io.BytesIO(held.getvalue()[:600]))


def _closed(tmp: io.BytesIO | None = None) -> Image.Image:
    with _file(COLOUR) as image:
        return image


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "F beyond 255": (lambda: _picture([0, 300], np.float32), r"\[0, 1\] or in \[0, 255\].*300"),
    "F below 0": (lambda: _picture([-0.5, 1], np.float32), "values from -0.5"),
    "F of NaN": (lambda: _picture([np.nan, 1], np.float32), "nan"),
    "F of infinity": (lambda: _picture([np.inf, 1], np.float32), "inf"),
    "I below 0": (lambda: _picture([-1, 100], np.int32), "values from -1"),
    "I beyond 16 bits": (lambda: _picture([0, 65536], np.int32), "to 65536.*cannot be told"),
    "I of 0 and 1": (lambda: _picture([0, 1], np.int32), "which number is white"),
    "int64": (lambda: np.ones((4, 4), np.int64), "must be bool, uint8, uint16.*int64"),
    "complex": (lambda: np.ones((4, 4), complex), "complex"),
    "floats of 255": (lambda: np.full((4, 4), 128.0), "divide by 255"),
    "-1": (lambda: np.full((4, 4), -1.0, np.float32), "values from -1"),
    "no pixels": (lambda: Image.new("L", (0, 4)), "no pixels"),
    "damaged": (_damaged, "cannot be read"),
    "closed": (_closed, "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_brightness_is_refused_alike(name: str) -> None:
    make, words = BAD[name]
    for entry, look in (COLOURED | SOLID).items():
        if name == "-1" and entry in {"control", "control, preprocessed"}:
            continue  # there it says where to paint: `test_control_pixels`
        with pytest.raises(RequestError, match=f"(?i){words}"):
            look(make())
