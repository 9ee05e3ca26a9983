"""A control picture as a ControlNet takes it.

Source: diffusers' `VaeImageProcessor` as StableDiffusionControlNetPipeline sets it up (do_normalize
False, do_convert_rgb True, Lanczos): the resize comes before the conversion to RGB.
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
    picture: Picture = control.pictures[0]
    rgb = to_rgb(picture)  # checks it, whatever is used of it
    if control.preprocessor is not None:
        picture = control.preprocessor(rgb)
        rgb = to_rgb(picture)
    image = picture if isinstance(picture, Image.Image) else rgb
    resized = image.resize((width, height), resample=Image.Resampling.LANCZOS).convert("RGB")
    unit = np.asarray(resized).astype(np.float32) / np.float32(255.0)
    return np.ascontiguousarray(unit.transpose(2, 0, 1)[None])
