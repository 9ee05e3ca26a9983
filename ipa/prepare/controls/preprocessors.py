"""Preprocessors of control pictures: outlines and Canny's edges."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ipa.checks import is_finite
from ipa.errors import RequestError, shown
from ipa.prepare.images.pictures import to_rgb
from ipa.request.pictures import Picture

LOW, HIGH = 100, 200
"""lllyasviel/ControlNet's thresholds (gradio_canny2image.py)."""


def canny(picture: Picture, low: float = LOW, high: float = HIGH) -> Image.Image:
    """Canny's edges of a picture: white on black, of its size.

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


THRESHOLD = 0.14
"""The least difference of neighbours that is an edge, as a share of the range of a channel."""


def edges(picture: Picture, threshold: float = THRESHOLD) -> Image.Image:
    """Outlines of a picture: white on black, of its size.

    A pixel is one where, to the next on its right or below, red, green or blue steps by more than
    the threshold.

    Args:
        picture: A PIL image or array.
        threshold: From 0 to 1, which is from black to white.

    Raises:
        RequestError: The picture cannot be used, or the threshold is out of range.
    """
    if not is_finite(threshold) or not 0.0 <= threshold <= 1.0:
        raise RequestError(
            "the threshold of edges must be a number from 0 to 1", found=shown(threshold)
        )
    values = np.asarray(to_rgb(picture)).astype(np.int16)
    right = np.diff(values, axis=1, append=values[:, -1:])
    down = np.diff(values, axis=0, append=values[-1:])
    steps = np.maximum(np.abs(right), np.abs(down)).max(axis=-1)
    white = np.where(steps > threshold * 255, 255, 0).astype(np.uint8)
    return Image.fromarray(white).convert("RGB")
