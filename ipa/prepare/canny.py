"""Edges by OpenCV's Canny: what canny ControlNets were trained with.

The package is no dependency: `pip install 'ipa-mlx[canny]'`. Any other function of a picture serves
as a preprocessor as well.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ipa.contract.errors import RequestError
from ipa.contract.image_prompt import Picture

from .images import to_rgb

LOW, HIGH = 100, 200
"""lllyasviel/ControlNet's thresholds (gradio_canny2image.py)."""


def canny(picture: Picture, low: float = LOW, high: float = HIGH) -> Image.Image:
    """White edges on black, of the size of a picture.

    Args:
        picture: A PIL image or array.
        low: Gradients (L1, Sobel of 8-bit values) above which an edge goes on.
        high: Above which it begins.

    Raises:
        RequestError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise RequestError(
            "the package opencv is not installed",
            found=str(error),
            remedy="pip install 'ipa-mlx[canny]', or bring edges of your own",
        ) from error
    edges = cv2.Canny(np.asarray(to_rgb(picture)), low, high)
    return Image.fromarray(np.asarray(edges, np.uint8)).convert("RGB")
