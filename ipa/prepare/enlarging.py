"""Latents in another size, to start a second pass from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ipa.contract.errors import RequestError, shown
from ipa.contract.weights import is_finite

from .masks import resample

Floats = npt.NDArray[np.float32]

_MOST = 16.0


def enlarge(latents: Floats, factor: float) -> Floats:
    """Latents (N, C, h, w) to (N, C, round(h · factor), round(w · factor)).

    torch's bicubic interpolation. They go into a second call as `image`, with a strength about 0.6:
    at less, what interpolation blurs stays blurred.

    Raises:
        RequestError: They are no latents, or the factor is not above 0 and at most 16.
    """
    if not isinstance(latents, np.ndarray) or latents.ndim != 4 or 0 in latents.shape:
        raise RequestError(
            "latents have the shape (N, C, h, w)",
            found=str(getattr(latents, "shape", type(latents).__name__)),
            remedy='call with output_type="latent", and pass result.latents',
        )
    if not is_finite(factor) or not 0.0 < factor <= _MOST:
        raise RequestError(f"factor must be above 0, and at most {_MOST:g}", found=shown(factor))
    count, channels, *sides = latents.shape
    rows, columns = (max(1, round(side * factor)) for side in sides)
    planes = latents.reshape(-1, *sides)
    large = [resample(plane, rows, columns) for plane in planes]
    return np.stack(large).reshape(count, channels, rows, columns)
