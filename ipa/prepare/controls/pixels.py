"""A control picture as a ControlNet or a T2I-Adapter takes it.

Sources: diffusers' `VaeImageProcessor` as its ControlNet pipelines set it up (do_normalize False,
do_convert_rgb True, Lanczos), where the crop and the resize come before the conversion to RGB; and
`_preprocess_adapter_image` of its T2I-Adapter pipelines, which resizes the same way and converts
nothing: the picture must have the adapter's channels, so here the conversion comes first.

ControlNets for inpainting (control_v11p_sd15_inpaint) take -1 where there is to be painted, which
no picture can hold. Either the control has a mask, resized and cut at a half as that of a run; or
its picture is an array of floats with -1 in it, taken as diffusers takes a tensor: values as they
are, each pixel the nearest one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.arrays import Floats
from ipa.errors import RequestError
from ipa.prepare.editing.inpainting import binary, cropped, inside, mask_picture
from ipa.prepare.images.pictures import to_rgb
from ipa.request.control import Control
from ipa.request.editing import Crop
from ipa.request.pictures import Picture, array_values, check_shape, eight_bits

HOLE = np.float32(-1.0)
"""The value of pixels to be painted, for ControlNets that inpaint."""


def control_pixels(control: Control, width: int, height: int, crop: Crop | None = None) -> Floats:
    """A control picture for a ControlNet, preprocessed if asked: (1, 3, height, width), red first.

    In [0, 1], and -1 where its mask or its array says so. Other arrays become 8-bit pictures
    first, where diffusers would take their values as they are.

    Args:
        control: What a person gave.
        width: Of the picture to be made, in pixels.
        height: Likewise.
        crop: What that is a part of: the control picture lies over all of it.

    Raises:
        RequestError: It cannot be used, or the preprocessor gave no picture.
    """
    picture = _preprocessed(control)
    if has_holes(picture):
        pixels = _nearest(np.asarray(picture), width, height, crop)
    else:
        to_rgb(picture)  # can it be made RGB at all?
        pixels = _unit(cropped(eight_bits(picture), width, height, crop).convert("RGB"))
    if control.mask is not None:
        mask: Any = control.mask  # read by `Control`, and one by now
        grey = mask_picture(mask, 0.0, "Control.mask")
        pixels[:, :, binary(cropped(grey, width, height, crop)) == 1.0] = HOLE
    return pixels


def adapter_pixels(
    control: Control, width: int, height: int, channels: int, crop: Crop | None = None
) -> Floats:
    """A picture for a T2I-Adapter: (1, channels, height, width) in [0, 1], grey or red first.

    Raises:
        RequestError: See `control_pixels`; or there is -1 in it.
    """
    rgb = to_rgb(_preprocessed(control))
    image = rgb.convert("L") if channels == 1 else rgb  # of a grey picture its own values
    made = cropped(image, width, height, crop)
    return _unit(made.convert("L") if channels == 1 else made)


def has_holes(picture: Picture) -> bool:
    """Whether a picture is an array of floats with -1 in it."""
    is_float = isinstance(picture, np.ndarray) and np.issubdtype(picture.dtype, np.floating)
    return bool(is_float and (np.asarray(picture) == HOLE).any())


def _preprocessed(control: Control) -> Picture:
    """The control picture, preprocessed if the control says so."""
    picture: Picture = control.pictures[0]
    return picture if control.preprocessor is None else control.preprocessor(to_rgb(picture))


def _nearest(array: npt.NDArray[Any], width: int, height: int, crop: Crop | None) -> Floats:
    """An array with holes as (1, 3, height, width): torch's interpolation to nearest pixels."""
    check_shape(array)
    values = np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array
    holes = values == HOLE
    if (holes.any(axis=2) != holes.all(axis=2)).any():
        raise RequestError(
            "a control picture has -1 in some channels of a pixel and not in all",
            remedy="picture[mask > 0.5] = -1 sets all of them; or pass Control(picture, mask=mask)",
        )
    values = np.where(holes, HOLE, array_values(np.where(holes, 0, values), "a control picture"))
    if crop is None:
        made = _resampled(values, width, height)
    else:
        left, top, right, bottom = crop.box
        part = _resampled(values, *crop.size)[top:bottom, left:right]
        (wide, tall), (x, y) = inside((right - left, bottom - top), width, height)
        rest = ((y, height - y - tall), (x, width - x - wide), (0, 0))
        made = np.pad(_resampled(part, wide, tall), rest, mode="edge")
    return np.ascontiguousarray(made.transpose(2, 0, 1)[None])


def _resampled(values: Floats, width: int, height: int) -> Floats:
    rows, columns = (
        np.minimum((_ramp(new) * (np.float32(old) / np.float32(new))).astype(int), old - 1)
        for old, new in zip(values.shape, (height, width), strict=False)
    )
    return np.asarray(values[rows[:, None], columns])


def _ramp(count: int) -> Floats:
    return np.arange(count, dtype=np.float32)  # torch multiplies in float32


def _unit(image: Image.Image) -> Floats:
    """An 8-bit picture, grey or RGB, as (1, C, H, W) in [0, 1]."""
    unit = np.asarray(image).astype(np.float32) / np.float32(255.0)
    planes = unit[None] if unit.ndim == 2 else unit.transpose(2, 0, 1)
    return np.ascontiguousarray(planes[None])
