"""Prompts through one text encoder, or through SDXL's two; and what SDXL's UNet is told beside."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ipa.contract.text import Sizes, TextStates

from .clip import TextEncoder
from .down import DownHalf


def encode_text(
    first: TextEncoder, second: TextEncoder | None, token_ids: npt.NDArray[np.int32]
) -> TextStates:
    """One prompt's ids, (text encoders, L), to its states.

    One encoder gives its last layer, normed. SDXL takes the layer before from both, side by side,
    and the second's pooled text.
    """
    ids = [mx.array(row[None]) for row in token_ids]
    if second is None:
        return TextStates(first(ids[0]))
    states = second.states(ids[1])
    both = mx.concatenate([first.states(ids[0]), states], axis=-1)
    return TextStates(both, second.pooled(states, ids[1]))


def no_text(like: TextStates) -> TextStates:
    """Zeros in the shape of other states."""
    return TextStates(mx.zeros_like(like.states), mx.zeros_like(like.pooled))


def added_conditioning(
    unet: DownHalf, text: Sequence[TextStates], sizes: Sequence[Sizes]
) -> mx.array | None:
    """What it adds to its timestep in every step, (R, time width); None without sizes."""
    if not sizes:
        return None
    return unet.add_embedding(mx.concatenate([row.pooled for row in text]), sizes)
