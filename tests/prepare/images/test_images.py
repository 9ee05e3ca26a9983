"""Pictures in and out, against transformers' and diffusers' image processors."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ipa.errors import CheckpointError, NumericalError, RequestError
from ipa.model.files import read_json
from ipa.model.preprocessor import default_preprocessing
from ipa.prepare.images.clip import clip_pixels
from ipa.prepare.images.pictures import MAX_PIXELS, open_image, to_pil, to_rgb, vae_pixels
from oracle.models import DEMO

SIZES = (
    (64, 64),
    (224, 224),
    (1, 1),
    (1, 40),
    (40, 1),
    (3, 500),
    (641, 479),
    (479, 641),
    (224, 225),
)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F")


def _picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise over a gradient: sharp enough to tell filters apart."""
    random = np.random.default_rng((seed, width, height))
    ramp = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    return Image.fromarray((ramp + random.integers(0, 56, (height, width, 3))).astype(np.uint8))


def _reference(picture: Image.Image, config: dict[str, Any]) -> np.ndarray:
    processor = CLIPImageProcessorPil(**config)
    return np.stack(processor(picture)["pixel_values"])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("side", [224, 64, 37])
def test_clip_pixels_equal_transformers_byte_for_byte(size: tuple[int, int], side: int) -> None:
    config = default_preprocessing(side)
    ours = clip_pixels([_picture(*size)], config)
    assert ours.dtype == np.float32 and ours.shape == (1, 3, side, side)
    assert ours.tobytes() == _reference(_picture(*size), config).tobytes()


@settings(max_examples=80, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), side=st.integers(1, 96))
def test_clip_pixels_equal_transformers_at_any_size(width: int, height: int, side: int) -> None:
    config = default_preprocessing(side)
    picture = _picture(width, height)
    assert clip_pixels([picture], config).tobytes() == _reference(picture, config).tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": 0},
        {"resample": 1},
        {"resample": 2},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 2.0, 3.0]},
        {"size": {"height": 40, "width": 56}},
        {"size": {"height": 64, "width": 64}, "do_center_crop": False},
        {"size": 64, "crop_size": 48},
        {"size": 40, "crop_size": {"height": 64, "width": 64}},
        {"size": 41, "crop_size": 64},
        {"do_resize": False, "crop_size": 200},
        {"do_resize": False, "crop_size": 33},
        {"do_normalize": None, "image_mean": None},
        {"do_resize": None, "size": None, "crop_size": 40},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(64, 90), (151, 70)], ids=str)
def test_every_option_equals_transformers(size: tuple[int, int], changes: dict[str, Any]) -> None:
    config = {**default_preprocessing(64), **changes}
    picture = _picture(*size)
    wanted = _reference(picture, config)
    assert np.array_equal(clip_pixels([picture], config), wanted.astype(np.float32))


def test_clips_own_defaults_fill_an_empty_config() -> None:
    picture = _picture(300, 260)
    assert np.array_equal(clip_pixels([picture], {}), _reference(picture, {}))
    assert np.array_equal(
        clip_pixels([picture], default_preprocessing(224)), clip_pixels([picture], {})
    )


def test_the_demo_and_the_old_feature_extractor_spelling_agree() -> None:
    config = read_json(DEMO / "feature_extractor" / "preprocessor_config.json")
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 64, "crop_size": 64}
    picture = _picture(100, 80)
    assert np.array_equal(clip_pixels([picture], config), clip_pixels([picture], old))


def test_pictures_of_several_sizes_are_stacked() -> None:
    pictures = [_picture(50, 90), _picture(90, 50), _picture(8, 8)]
    together = clip_pixels(pictures, default_preprocessing(32))
    alone = [clip_pixels([p], default_preprocessing(32)) for p in pictures]
    assert np.array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_as_in_transformers(mode: str) -> None:
    random = np.random.default_rng(5)
    colour = Image.fromarray(random.integers(0, 256, (20, 30, 4), np.uint8))
    picture = {
        "LA": colour.convert("LA"),
        "PA": colour.convert("P").convert("PA"),
        "HSV": colour.convert("RGB").convert("HSV"),
        "LAB": Image.frombytes("LAB", (30, 20), random.bytes(1800)),
        "RGBA": colour,
        "I": Image.fromarray(random.integers(0, 255, (20, 30), np.int32)),
        "F": Image.fromarray(random.uniform(0, 255, (20, 30)).astype(np.float32)),
    }.get(mode) or colour.convert("RGB").convert(mode)
    assert picture.mode == mode
    wanted = CLIPImageProcessorPil().convert_to_rgb(picture)
    assert np.array_equal(np.asarray(to_rgb(picture)), wanted)


def test_palette_transparency_lies_on_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    picture.info["transparency"] = 0
    assert np.asarray(to_rgb(picture)).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_the_picture_itself_is_not_changed() -> None:
    picture = Image.new("RGBA", (4, 4), (9, 8, 7, 6))
    before = picture.tobytes()
    to_rgb(picture)
    clip_pixels([picture], default_preprocessing(8))
    assert picture.tobytes() == before


def test_arrays_are_taken_like_the_pictures_they_hold() -> None:
    bytes_ = np.asarray(_picture(30, 20))
    for array in (bytes_, bytes_ / 255.0, (bytes_ / 255.0).astype(np.float32)):
        assert np.array_equal(np.asarray(to_rgb(array)), bytes_)
    grey = bytes_[..., 0]
    assert np.array_equal(np.asarray(to_rgb(grey)), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(np.asarray(to_rgb(bytes_[::-1, ::2])), bytes_[::-1, ::2])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4), np.inf, np.float32), "NaN or infinity"),
        (np.full((4, 4, 3), 1.01), r"\[0, 1\]"),
        (np.full((4, 4, 3), -0.1), r"\[0, 1\]"),
        (np.full((4, 4, 3), 128.0), "divide by 255"),
        (np.zeros((4, 4, 3), np.int64), "uint8"),
        (np.zeros((4, 4, 3), complex), "uint8"),
        (np.zeros((3, 4, 4), np.uint8), "shape"),
        (np.zeros((4, 4, 4), np.uint8), "shape"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((4,), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 0), np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        to_rgb(array)


@pytest.mark.parametrize("thing", ["cat.png", None, [[1, 2]], b"\x89PNG"])
def test_things_that_are_no_pictures_are_refused(thing: Any) -> None:
    with pytest.raises(RequestError, match="open_image"):
        to_rgb(thing)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(RequestError, match="no pixels"):
        to_rgb(Image.new("RGB", (0, 5)))
    with pytest.raises(RequestError, match="at least one"):
        clip_pixels([], {})


@pytest.mark.parametrize("size", [(1, 4000), (9000, 2)])
def test_absurd_aspect_ratios_are_refused_before_the_resize(size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="sides differ"):
        clip_pixels([Image.new("RGB", size)], default_preprocessing(224))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor_type": "SiglipImageProcessor"}, "image_processor_type"),
        ({"size": {"longest_edge": 224}}, "size"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "size"),
        ({"size": 0}, "size"),
        ({"size": "224"}, "size"),
        ({"size": True}, "size"),
        ({"size": 10**7}, "size"),
        ({"crop_size": {"height": 224}}, "crop_size"),
        ({"crop_size": {"height": 224, "width": 200}}, "square"),
        ({"do_center_crop": False}, "square"),
        ({"size": None}, "size"),
        ({"crop_size": None}, "crop_size"),
        ({"resample": None}, "resample"),
        ({"image_mean": None}, "image_mean"),
        ({"resample": 9}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
        ({"image_std": [0.5, float("nan"), 0.5]}, "image_std"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"do_pad": True}, "do_pad"),
    ],
)
def test_preprocessing_that_is_not_implemented_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        clip_pixels([_picture(8, 8)], {**default_preprocessing(224), **changes})


def test_a_fixed_size_without_resize_is_checked() -> None:
    config = {"do_resize": True, "size": {"height": 8, "width": 8}, "do_center_crop": False}
    assert clip_pixels([_picture(5, 9)], config).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("size", [(64, 64), (100, 33), (16, 24)], ids=str)
def test_vae_pixels_equal_diffusers(size: tuple[int, int]) -> None:
    for picture in (_picture(*size), _picture(*size).convert("L")):
        processor = VaeImageProcessor(do_convert_rgb=True)
        wanted = processor.preprocess(picture, height=48, width=64).numpy()
        ours = vae_pixels(picture, 64, 48)
        assert ours.dtype == np.float32 and ours.flags.c_contiguous
        assert ours.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("side", [0, -8, 8.0, True, 10**6])
def test_vae_pixels_refuse_impossible_sizes(side: Any) -> None:
    with pytest.raises(RequestError, match="width"):
        vae_pixels(_picture(8, 8), side, 8)
    with pytest.raises(RequestError, match="height"):
        vae_pixels(_picture(8, 8), 8, side)


def test_to_pil_equals_diffusers() -> None:
    halves = (np.arange(512, dtype=np.float32).reshape(2, 16, 16) / 511)[..., None].repeat(3, -1)
    images = np.concatenate([halves, np.random.default_rng(1).random((2, 16, 16, 3), np.float32)])
    wanted = VaeImageProcessor.numpy_to_pil(images)
    assert [i.tobytes() for i in to_pil(images)] == [i.tobytes() for i in wanted]
    assert to_pil(images[:0]) == []


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (np.zeros((4, 4, 3), np.float32), RequestError),
        (np.zeros((1, 3, 4, 4), np.float32), RequestError),
        (np.full((1, 4, 4, 3), 1.5, np.float32), RequestError),
        (np.full((1, 4, 4, 3), np.nan, np.float32), NumericalError),
    ],
)
def test_to_pil_refuses_what_is_no_picture(images: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error):
        to_pil(images)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm"])
def test_open_image_decodes_common_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    _picture(21, 13).save(path)
    picture = open_image(path)
    path.unlink()
    assert picture.size == (21, 13) and len(picture.convert("RGB").tobytes()) == 21 * 13 * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_open_image_turns_pictures_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.asarray(_picture(5, 3))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright[::-1], 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(np.asarray(open_image(path)), upright)
    assert np.array_equal(np.asarray(open_image(str(path))), upright)


def test_sixteen_bit_grey_keeps_its_greys(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, 60).astype(np.uint16).reshape(6, 10)
    path = tmp_path / "depth.png"
    Image.fromarray(wide).save(path)
    opened = open_image(path)
    assert opened.mode == "L"
    assert np.abs(np.asarray(opened) - wide / 257.0).max() <= 0.5


def test_open_image_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(RequestError, match="a folder"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_open_image_refuses_what_is_no_picture(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="not one that can be read"):
        open_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_open_image_refuses_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    _picture(64, 64).save(path)
    whole = path.read_bytes()
    for kept in (len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:kept])
        with pytest.raises(RequestError, match=r"damaged|not one that can be read"):
            open_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_never_escape_the_error_tree(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    suffix = data.draw(
        st.sampled_from(["png", "jpg", "webp", "gif", "tiff", "bmp", "tga", "jp2", "avif"])
    )
    path = folder / f"picture.{suffix}"
    _picture(12, 9).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        assert open_image(path).width > 0
    except RequestError as error:
        assert str(path) in str(error)


def _png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(MAX_PIXELS + 1, 1), (12_000, 9_000), (60_000, 60_000)], ids=str)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_gigantic_pictures_are_refused_by_their_header(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(*size))
    with pytest.raises(RequestError, match="too large"):
        open_image(path)
