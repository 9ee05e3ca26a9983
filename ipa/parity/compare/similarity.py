"""How alike two finished pictures are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ipa.arrays import Bytes, Floats

from .comparison import Pictures

_PEAK = 255.0


_RADIUS, _SIGMA = 5, 1.5


_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


def pictures(
    a: Floats, b: Floats, embeddings: tuple[Sequence[float], Sequence[float]] | None = None
) -> Pictures:
    """Two pictures (1, 3, H, W) in [0, 1], rounded to 8 bits, and their likeness.

    `embeddings` are what an image encoder makes of each (`Pipeline.embed_images`).
    """
    first, second = (_pixels(image) for image in (a, b))
    return Pictures(
        first,
        second,
        psnr_db=psnr_db(first, second),
        ssim=ssim(first, second),
        clip_cosine=None if embeddings is None else _cosine(*embeddings),
    )


def psnr_db(a: Bytes, b: Bytes) -> float:
    """The PSNR in dB with 255 as the peak; infinite where pictures are equal."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return float(10 * np.log10(_PEAK**2 / error)) if error else float("inf")


def ssim(a: Bytes, b: Bytes) -> float:
    """The structural similarity of (H, W, 3), the mean over places and colours.

    Wang, Bovik, Sheikh and Simoncelli 2004: a Gaussian window of 11 pixels, σ 1.5, where all of it
    is inside the picture; of smaller pictures, as much of its middle as fits.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x, var_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return float((light * structure).mean())


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means under a Gaussian window, along both axes."""
    for axis in (0, 1):
        radius = min(_RADIUS, (values.shape[axis] - 1) // 2)
        window = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * _SIGMA**2))
        windows = np.lib.stride_tricks.sliding_window_view(values, len(window), axis)
        values = windows @ (window / window.sum())
    return values


def _pixels(image: Floats) -> Bytes:
    rows = np.clip(np.round(np.asarray(image[0], np.float64) * _PEAK), 0, _PEAK)
    return np.ascontiguousarray(rows.transpose(1, 2, 0).astype(np.uint8))


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
