"""Prompts through one text encoder, or SDXL's two, and SDXL's pooled text."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ipa.backend.text import PLAIN, TextOptions, TextStates
from ipa.prepare.text.weights import weigh

from .networks.clip import TextEncoder


def encode_text(
    first: TextEncoder,
    second: TextEncoder | None,
    token_ids: npt.NDArray[np.int32],
    reading: TextOptions = PLAIN,
) -> TextStates:
    """Encode one prompt's ids, (text encoders, L) or (text encoders, chunks, L), to its states.

    One encoder gives its last layer, normed. SDXL takes the layer before from both, side by side,
    and the second's pooled text, that of the first chunk. Chunks are encoded one by one, so that
    each has the bits that it has alone.
    """
    rows, hidden, columns = token_ids.reshape(len(token_ids), -1, token_ids.shape[-1]), [], []
    for rank, tower in enumerate([first] if second is None else [first, second]):
        learned = mx.array(reading.learned[rank]) if reading.learned else None
        normed, skip = second is None, reading.clip_skip
        hidden = [tower.hidden_states(mx.array(ids[None]), learned) for ids in rows[rank]]
        states = [_taken(tower, layers, skip, normed=normed) for layers in hidden]
        empty = None
        if reading.empty is not None:
            layers = tower.hidden_states(mx.array(reading.empty[rank][None]), learned)
            empty = _taken(tower, layers, skip, normed=normed)
        weights = [reading.weights_of(rank, number) for number in range(len(states))]
        pairs = zip(states, weights, strict=True)
        columns.append(mx.concatenate([_weighted(*pair, empty) for pair in pairs], axis=1))
    if second is None:
        return TextStates(columns[0])
    pooled = second.pooled(hidden[0][-1], mx.array(rows[1, :1]))
    return TextStates(mx.concatenate(columns, axis=-1), pooled)


def _taken(tower: TextEncoder, layers: Sequence[mx.array], skip: int, *, normed: bool) -> mx.array:
    return tower.final_norm(layers[-1 - skip]) if normed else layers[-2 - skip]


def _weighted(
    states: mx.array, weights: npt.NDArray[np.float64] | None, empty: mx.array | None
) -> mx.array:
    if weights is None:
        return states
    rows = [None if row is None else np.array(row[0].astype(mx.float32)) for row in (states, empty)]
    return mx.array(weigh(rows[0], weights, rows[1]))[None].astype(states.dtype)


def no_text(like: TextStates) -> TextStates:
    """Zeros in the shape of other states: SDXL's empty negative prompt."""
    return TextStates(mx.zeros_like(like.states), mx.zeros_like(like.pooled))
