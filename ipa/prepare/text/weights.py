"""Weights of words applied to the states of a text: two rules, in float64.

`multiplied` is A1111's ("Original" in its settings, modules/sd_emphasis.py): states times weights,
then all of them by one factor, so that their mean is what it was. A1111 takes that mean over all
prompts of a batch; here every chunk of every prompt is its own, as it is there with one prompt.

`interpolated` is ComfyUI's (comfy/sd1_clip.py, encode_token_weights), and compel's for weights of 1
and more: away from the states of no text, place by place.

Both act on the states of each text encoder by itself, and never on the pooled text, as there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ipa.arrays import Floats
from ipa.errors import NumericalError

Weights = npt.NDArray[np.float64]


def weigh(states: Floats, weights: Weights, empty: Floats | None) -> Floats:
    """Weight the states of one chunk by one text encoder.

    Args:
        states: (77, D).
        weights: (77,).
        empty: The states of no text, (77, D), for ComfyUI's rule; None for A1111's.

    Raises:
        NumericalError: The weights leave nothing of which a mean could be restored, or overflow.
    """
    values = states.astype(np.float64)
    with np.errstate(all="ignore"):
        if empty is None:
            result = multiplied(values, weights)
        else:
            result = interpolated(values, weights, empty.astype(np.float64))
        rounded = result.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise NumericalError(
            "the weights of a prompt give NaN or infinity",
            found=f"weights from {weights.min():g} to {weights.max():g}",
            remedy="take weights nearer to 1",
        )
    return rounded


def multiplied(states: Weights, weights: Weights) -> Weights:
    """A1111's rule: states · weights, times the mean before over the mean after."""
    result = states * weights[:, None]
    return np.asarray(result * (states.mean() / result.mean()))


def interpolated(states: Weights, weights: Weights, empty: Weights) -> Weights:
    """ComfyUI's rule: empty + weights · (states − empty)."""
    return np.asarray(empty + weights[:, None] * (states - empty))
