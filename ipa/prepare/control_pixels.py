"""A control picture as a ControlNet or a T2I-Adapter takes it.

Sources: diffusers' `VaeImageProcessor` as StableDiffusionControlNetPipeline sets it up
(do_normalize False, do_convert_rgb True, Lanczos), where the resize comes before the conversion to
RGB; and `_preprocess_adapter_image` of its T2I-Adapter pipelines, which resizes the same way and
converts nothing: the picture must have the adapter's channels, so here the conversion comes first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.contract.control import Control
from ipa.contract.image_prompt import Picture

from .images import to_rgb


def control_pixels(control: Control, width: int, height: int) -> npt.NDArray[np.float32]:
    """A control's picture, preprocessed if asked: (1, 3, height, width) in [0, 1], red first.

    Arrays become 8-bit pictures first, where diffusers would take their values as they are.

    Raises:
        RequestError: It cannot be used, or the preprocessor gave no picture.
    """
    picture, rgb = _preprocessed(control)
    image = picture if isinstance(picture, Image.Image) else rgb
    return _unit(image.resize((width, height), resample=Image.Resampling.LANCZOS).convert("RGB"))


def adapter_pixels(
    control: Control, width: int, height: int, channels: int
) -> npt.NDArray[np.float32]:
    """The same for a T2I-Adapter: (1, channels, height, width) in [0, 1], grey or red first.

    Raises:
        RequestError: See `control_pixels`.
    """
    _, rgb = _preprocessed(control)
    image = rgb.convert("L") if channels == 1 else rgb  # of a grey picture its own values
    return _unit(image.resize((width, height), resample=Image.Resampling.LANCZOS))


def _preprocessed(control: Control) -> tuple[Picture, Image.Image]:
    """The picture that counts, as it is and in RGB."""
    picture: Picture = control.image
    rgb = to_rgb(picture)  # checks it, whatever is used of it
    if control.preprocessor is not None:
        picture = control.preprocessor(rgb)
        rgb = to_rgb(picture)
    return picture, rgb


def _unit(image: Image.Image) -> npt.NDArray[np.float32]:
    """8-bit values, grey or RGB, as (1, C, H, W) in [0, 1]."""
    unit = np.asarray(image).astype(np.float32) / np.float32(255.0)
    unit = unit.reshape(image.height, image.width, -1)
    return np.ascontiguousarray(unit.transpose(2, 0, 1)[None])
