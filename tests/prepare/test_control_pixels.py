"""Control pictures: diffusers' VaeImageProcessor judges their pixels; OpenCV's Canny as it is."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from ipa import Control, RequestError
from ipa.prepare.canny import canny
from ipa.prepare.control_pixels import control_pixels
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
