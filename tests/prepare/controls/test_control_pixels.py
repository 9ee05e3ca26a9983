"""Control pictures: diffusers' VaeImageProcessor judges their pixels; OpenCV's Canny as it is."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from ipa import Control, RequestError
from ipa.prepare.controls.pixels import control_pixels
from ipa.prepare.controls.preprocessors import canny
from oracle.controlled import edges


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
@pytest.mark.parametrize("size", [(64, 48), (100, 31)])
def test_pixels_are_diffusers(mode: str, size: tuple[int, int]) -> None:
    picture = Image.fromarray(edges(size, 2))
    if "A" in mode:
        picture.putalpha(Image.linear_gradient("L").resize(size))
    picture = picture.convert(mode)
    processor = VaeImageProcessor(vae_scale_factor=8, do_convert_rgb=True, do_normalize=False)
    theirs = processor.preprocess(picture, height=48, width=64).numpy()
    assert np.array_equal(control_pixels(Control(picture), 64, 48), theirs)


def test_arrays_are_pictures() -> None:
    array = edges((100, 31), 3)
    expected = control_pixels(Control(Image.fromarray(array)), 64, 48)
    for same in (array, (array / 255).astype(np.float32)):
        assert np.array_equal(control_pixels(Control(same), 64, 48), expected)


@pytest.mark.parametrize("size", [(64, 48), (100, 31), (37, 60)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_with_holes_is_diffusers_tensor(size: tuple[int, int], dtype: Any) -> None:
    """Its values as they are, each the nearest pixel's; -1 stays -1."""
    array = (edges(size, 5) / 255).astype(dtype)
    array[10:20, 5:30] = -1
    tensor = torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)[None]
    processor = VaeImageProcessor(vae_scale_factor=8, do_convert_rgb=True, do_normalize=False)
    theirs = processor.preprocess(tensor, height=48, width=64).numpy()
    assert np.array_equal(control_pixels(Control(array), 64, 48), theirs)
    grey = control_pixels(Control(array[..., 0]), 64, 48)
    assert np.array_equal(grey, np.repeat(theirs[:, :1], 3, axis=1))


def test_a_mask_is_where_there_is_to_be_painted() -> None:
    """Cut at a half as the run's own; of any size and kind."""
    picture, spot = Image.fromarray(edges((100, 31), 6)), np.zeros((31, 100), bool)
    spot[8:20, 30:70] = True
    plain = control_pixels(Control(picture), 64, 48)
    masks = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    white = Image.fromarray(spot.astype(np.uint8) * 255)
    theirs = masks.preprocess(white, height=48, width=64).numpy()
    for mask in (spot, spot.astype(np.float32), white, white.convert("RGB")):
        found = control_pixels(Control(picture, mask=mask), 64, 48)
        assert np.array_equal(found, np.where(theirs == 1, np.float32(-1), plain))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: np.where(np.arange(3) == 1, np.float32(-1), x), "-1 in some channels"),
        (lambda x: x - 1.5, r"must lie in \[0, 1\].*-1.5"),
        (lambda x: np.where(x > 0.3, np.float32(-1), x * 9)[..., :1] * np.ones(3), "to 2"),
        (lambda x: np.full((4, 4, 4), -1.0), "shape"),
        (lambda x: np.where(x > 0.5, -1, np.nan)[..., :1] * np.ones(3), "NaN"),
    ],
)
def test_holes_that_are_none(make: Any, words: str) -> None:
    array = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3)
    with pytest.raises(RequestError, match=words):
        control_pixels(Control(make(array)), 64, 48)


def test_masks_of_controls_are_checked() -> None:
    picture, mask = Image.new("RGB", (8, 8)), np.ones((8, 8))
    for image, given, batched, words in (
        (picture, "here", False, "Control.mask cannot be used"),
        (picture, mask * 7, False, r"lie in \[0, 1\]"),
        (picture, [mask], False, "for each picture of a batched control"),
        ([picture] * 2, [mask], True, "1 masks, batched=True"),
    ):
        with pytest.raises(RequestError, match=words):
            Control(image, mask=given, batched=batched)
    both = Control([picture] * 2, mask=[mask, None], batched=True)
    assert both.share(0).mask is not None and both.share(1).mask is None


def test_canny_is_asked_with_the_usual_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in of OpenCV: lines where it was asked to look."""
    asked: list[Any] = []

    def find(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
        asked.append((pixels.shape, pixels.dtype, low, high))
        return np.where(pixels[..., 0] > 99, 255, 0).astype(np.uint8)

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(Canny=find))
    picture = Image.fromarray(edges((64, 48), 4))
    found = canny(picture)
    assert asked == [((48, 64, 3), np.uint8, 100, 200)]
    assert (found.mode, found.size) == ("RGB", (64, 48))
    pixels = control_pixels(Control(picture, preprocessor=canny), 64, 48)
    assert np.array_equal(pixels, control_pixels(Control(found), 64, 48))


def test_canny_finds_the_edge_of_a_square() -> None:
    pytest.importorskip("cv2")
    square = np.zeros((32, 32), np.uint8)
    square[8:24, 8:24] = 255
    found = np.asarray(canny(square))[..., 0]
    assert set(np.unique(found)) == {0, 255}
    assert found[7:9, 12:20].any(axis=0).all()
    assert not found[12:20, 12:20].any()


def test_without_opencv_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RequestError, match=r"ipa-mlx\[canny\]"):
        canny(Image.new("RGB", (8, 8)))
