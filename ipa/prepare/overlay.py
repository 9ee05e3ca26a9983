"""A picture with shares laid over it as heat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.contract.errors import RequestError, shown
from ipa.contract.weights import is_finite

Floats = npt.NDArray[np.float32]

_STOPS = np.array(
    [[35, 25, 70], [110, 35, 120], [210, 60, 80], [250, 150, 50], [255, 240, 150]], dtype=np.float64
)
_BEHIND = 0.35  # how much of the picture's grey shows through


def heat_colours(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Values in [0, 1], of any shape, as red, green and blue from 0 to 255 along a new last axis.

    From a dark violet over red to a light yellow: brightness grows with the value.
    """
    place = np.clip(values.astype(np.float64), 0.0, 1.0) * (len(_STOPS) - 1)
    low = np.minimum(place.astype(int), len(_STOPS) - 2)
    return np.asarray(_STOPS[low] + (place - low)[..., None] * (_STOPS[low + 1] - _STOPS[low]))


def overlay(image: Image.Image, shares: Floats, peak: float | None = None) -> Image.Image:
    """A picture in grey under the heat of shares, as `Influence.map` gives them.

    Args:
        image: What was made.
        shares: (h, w); enlarged to the picture by bilinear interpolation.
        peak: The share that gets the lightest colour; one for several overlays makes them
            comparable. None is the largest.

    Returns:
        RGB, of the picture's size.

    Raises:
        RequestError: The peak is not above 0.
    """
    good = isinstance(shares, np.ndarray) and shares.ndim == 2 and shares.size > 0
    if not good or not np.issubdtype(shares.dtype, np.floating):
        raise RequestError(
            "shares must be an array (h, w) of floats",
            found=str(getattr(shares, "shape", type(shares).__name__)),
            remedy="pass one of those of Influence.map",
        )
    if not isinstance(image, Image.Image):
        raise RequestError("an overlay needs a picture", found=type(image).__name__)
    top = max(float(shares.max()), 1e-9) if peak is None else peak
    if not is_finite(top) or not top > 0.0:
        raise RequestError("the peak of an overlay must be above 0", found=shown(peak))
    relative = Image.fromarray(np.asarray(shares / top, dtype=np.float32))
    large = np.asarray(relative.resize(image.size, Image.Resampling.BILINEAR))
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    mixed = _BEHIND * grey + (1.0 - _BEHIND) * heat_colours(large)
    return Image.fromarray(np.round(mixed).astype(np.uint8))
