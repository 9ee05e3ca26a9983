"""Several pictures' features as one: what is added, averaged and taken away before the projector.

Source: ComfyUI_IPAdapter_plus (IPAdapterPlus.py, combine_embeds), whose names and formulas these
are. Computed in float64 and rounded once, so that the average of a picture with itself is that
picture, bit for bit.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.arrays import Doubles, Floats
from ipa.errors import RequestError, shown

CONCAT = "concat"
"""The default: features stay side by side, and so do the tokens that they become."""


def check_combine(mode: object) -> str:
    """Check the name of a way to combine. Raises RequestError for another, with the nearest."""
    if isinstance(mode, str) and mode in COMBINE_MODES:
        return mode
    near = difflib.get_close_matches(shown(mode).replace("_", " "), COMBINE_MODES, n=1)
    raise RequestError(
        "there is no such way to combine pictures",
        argument="combine",
        found=shown(mode),
        remedy=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMBINE_MODES)}",
    )


def combined(
    features: Floats, mode: str = CONCAT, weights: Sequence[float] | None = None
) -> Floats:
    """Combine features of N pictures (N, …) to one (1, …); or keep all N, for "concat".

    Args:
        features: One row a picture.
        mode: One of COMBINE_MODES. One picture alone is left as it is by each of them.
        weights: A factor per picture, on its features before they are combined; an average is
            divided by their sum.

    Raises:
        RequestError: The mode is unknown, or the weights do not fit.
    """
    combine, count = COMBINE_MODES[check_combine(mode)], len(features)
    factors = _factors(weights, count, mode)
    weighted = features.astype(np.float64) * factors.reshape(-1, *(1,) * (features.ndim - 1))
    if mode == "average":
        result = weighted.sum(axis=0, keepdims=True) / factors.sum()
    else:
        result = weighted if count == 1 else combine(weighted)
    return np.asarray(result, dtype=np.float32)


def _factors(weights: Sequence[float] | None, count: int, mode: str) -> Doubles:
    if weights is None:
        return np.ones(count)
    try:
        factors = np.array(weights, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError("weights must be numbers", found=shown(weights)) from error
    if factors.shape != (count,) or not np.isfinite(factors).all():
        raise RequestError(
            "weights must be one finite number per picture",
            found=f"{shown(weights)} for {count} pictures",
        )
    if mode == "average" and abs(factors.sum()) < 1e-6 * max(1.0, np.abs(factors).sum()):
        raise RequestError(
            "the weights of an average must not sum to 0",
            found=shown(weights),
            remedy='use "add" for differences',
        )
    return factors


def _norm_average(features: Doubles) -> Doubles:
    """The average of numbers over their norm across the pictures; 0 / 0 is 0."""
    norm = np.sqrt((features**2).sum(axis=0, keepdims=True))
    shares = np.divide(features, norm, out=np.zeros_like(features), where=norm > 0.0)
    return np.asarray(shares.mean(axis=0, keepdims=True))


COMBINE_MODES: Mapping[str, Callable[[Doubles], npt.NDArray[Any]]] = {
    CONCAT: lambda e: e,
    "add": lambda e: e.sum(axis=0, keepdims=True),
    "subtract": lambda e: e[:1] - e[1:].mean(axis=0, keepdims=True),
    "average": lambda e: e.mean(axis=0, keepdims=True),
    "norm average": _norm_average,
    "max": lambda e: e.max(axis=0, keepdims=True),
    "min": lambda e: e.min(axis=0, keepdims=True),
}
"""ComfyUI's names, and what they compute of (N, …) with N > 1."""
