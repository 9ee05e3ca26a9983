"""A picture with shares laid over it as heat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.arrays import Floats
from ipa.checks import is_finite
from ipa.errors import RequestError, shown
from ipa.prepare.images.pictures import to_rgb
from ipa.request.editing import Crop

_STOPS = np.array(
    [[35, 25, 70], [110, 35, 120], [210, 60, 80], [250, 150, 50], [255, 240, 150]], dtype=np.float64
)


_BEHIND = 0.35  # how much of the picture's grey shows through


def heat_colours(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Colours of values in [0, 1], of any shape: red, green and blue from 0 to 255 as last axis.

    From a dark violet over red to a light yellow: brightness grows with the value.
    """
    place = np.clip(values.astype(np.float64), 0.0, 1.0) * (len(_STOPS) - 1)
    low = np.minimum(place.astype(int), len(_STOPS) - 2)
    return np.asarray(_STOPS[low] + (place - low)[..., None] * (_STOPS[low + 1] - _STOPS[low]))


def overlay(
    image: Image.Image, shares: Floats, peak: float | None = None, crop: Crop | None = None
) -> Image.Image:
    """A picture in grey under the heat of shares, as `Influence.map` gives them.

    Args:
        image: What was made.
        shares: (h, w); enlarged to the picture by bilinear interpolation.
        peak: The share that gets the lightest colour; one for several overlays makes them
            comparable. None is the largest.
        crop: The part of the picture that they lie over, as `Influence.crop` says; the rest stays
            grey. None is all of it.

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
    top = max(float(shares.max()), 1e-9) if peak is None else peak
    if not is_finite(top) or not top > 0.0:
        raise RequestError("the peak of an overlay must be above 0", found=shown(peak))
    relative = Image.fromarray(np.asarray(shares / top, dtype=np.float32))
    behind = to_rgb(image).convert("L")
    grey = np.asarray(behind, dtype=np.float64)[..., None]
    left, above, right, below = _place(behind.size, crop)
    size = (right - left, below - above)
    large = relative.resize(size, Image.Resampling.BILINEAR, box=_shown(relative.size, crop))
    mixed = np.repeat(grey, 3, axis=2)
    part = mixed[above:below, left:right]
    part[:] = _BEHIND * part + (1.0 - _BEHIND) * heat_colours(np.asarray(large))
    return Image.fromarray(np.round(mixed).astype(np.uint8))


def _place(size: tuple[int, int], crop: Crop | None) -> tuple[int, int, int, int]:
    """The place of a crop in a picture that was resized since, at least a pixel of it."""
    if crop is None:
        return 0, 0, *size
    left, top, right, bottom = (
        min(round(edge * new / old), new)
        for edge, old, new in zip(crop.box, crop.size * 2, size * 2, strict=True)
    )
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _shown(size: tuple[int, int], crop: Crop | None) -> tuple[float, float, float, float]:
    """The part of a map that is shown: its middle, of the crop's aspect."""
    width, height = size
    if crop is not None:
        left, top, right, bottom = crop.box
        aspect = (right - left) / (bottom - top)
        wide, tall = min(width, height * aspect), min(height, width / aspect)
        x, y = (width - wide) / 2, (height - tall) / 2
        return x, y, x + wide, y + tall
    return 0.0, 0.0, float(width), float(height)
