"""Masks and crops of pictures that are made anew in part, byte for byte diffusers'."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from ipa.prepare.editing.inpainting import Overlay, binary_mask, crop_box, mask_picture, sized
from ipa.prepare.images.pictures import vae_pixels

PICTURES = VaeImageProcessor(vae_scale_factor=8)
MASKS = VaeImageProcessor(
    vae_scale_factor=8, do_normalize=False, do_binarize=True, do_convert_grayscale=True
)


def same(found: object, wanted: object) -> bool:
    return np.array_equal(np.asarray(found), np.asarray(wanted))


@pytest.mark.parametrize("seed", range(40))
def test_crops_masks_and_overlays(seed: int) -> None:
    """Random sizes, boxes at any edge, grey and coloured masks, hard and blurred."""
    draw = np.random.default_rng(seed)
    wide, tall = (int(n) for n in draw.integers(10, 150, 2))
    width, height = (int(8 * n) for n in draw.integers(1, 16, 2))
    (left, right), (top, bottom) = (sorted(draw.integers(0, n, 2)) for n in (wide, tall))
    spot = np.zeros((tall, wide), np.uint8)
    spot[top : bottom + 1, left : right + 1] = draw.integers(1, 256)
    image = Image.fromarray(draw.integers(0, 256, (tall, wide, 3), dtype=np.uint8))
    mask = Image.fromarray(spot).convert(("L", "RGB")[seed % 2])
    padding = int(draw.integers(0, 40))
    box = crop_box(mask, width, height, padding, "mask")
    assert box == PICTURES.get_crop_region(mask, width, height, pad=padding)
    made = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
    assert same(
        Overlay(image, mask, box).over(made), PICTURES.apply_overlay(mask, image, made, box)
    )
    for where, mode in ((None, "default"), (box, "fill")):
        call = {"height": height, "width": width, "crops_coords": where, "resize_mode": mode}
        inside = sized(image, width, height, where)
        assert same(vae_pixels(inside, width, height), PICTURES.preprocess(image, **call))
        found = binary_mask(mask, width, height, where)
        assert same(found[None, None], MASKS.preprocess(mask, **call))
    soft = mask_picture(mask, 3.0, "mask")
    assert same(soft, PICTURES.blur(mask, 3))
    small, soft = (picture.resize((width, height)) for picture in (image, soft))
    assert same(Overlay(small, soft).over(made), PICTURES.apply_overlay(soft, small, made))


def test_masks_of_every_kind_are_one() -> None:
    flags = np.arange(48).reshape(6, 8) % 3 == 0
    kinds = [flags, flags.astype(np.float32), flags.astype(np.uint8) * 255]
    kinds += [Image.fromarray(kinds[2]), Image.fromarray(kinds[2]).convert("1")]
    kinds += [Image.fromarray(kinds[2]).convert(mode) for mode in ("RGB", "P", "RGBA")]
    for kind in kinds:
        assert same(binary_mask(mask_picture(kind, 0.0, "m"), 8, 6, None), flags), kind
    assert same(
        binary_mask(mask_picture(np.full((6, 8), 0.5), 0.0, "m"), 8, 6, None), np.ones((6, 8))
    )
