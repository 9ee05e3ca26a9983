"""Decoupled cross-attention of one site in float64 numpy, by the formulas of papers and tools.

Nothing of the product is used here. An attention is

    O = W_out [ softmax(q K_text^T / sqrt(d)) V_text + sum_j m_j * B_j ] + b_out

with B_j = w softmax(q K_j^T / sqrt(d)) V_j, or what ComfyUI's embeds_scaling makes of it. Heads are
slices of d neighbouring channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Picture64:
    """One image prompt at one site.

    Attributes:
        tokens: One (T, D) for each row: unconditional first if there are two.
        to_k: (C, D).
        to_v: (C, D).
        weight: w.
        mode: ComfyUI's name of its embeds_scaling.
        mask: (L,), or None for 1 everywhere.
        moved: Whether tokens go to the unconditional side.
    """

    tokens: Sequence[npt.NDArray[np.floating]]
    to_k: npt.NDArray[np.floating]
    to_v: npt.NDArray[np.floating]
    weight: float = 1.0
    mode: str = "V only"
    mask: npt.NDArray[np.floating] | None = None
    moved: bool = False

    def row(self, number: int) -> Doubles:
        """The tokens that a row of the batch sees."""
        conditional = self.tokens[-1].astype(np.float64)
        if not self.moved:
            return self.tokens[number].astype(np.float64)
        is_unconditional = len(self.tokens) == 2 and number == 0
        return conditional if is_unconditional else conditional * 0.0

    def attended(self, q: Doubles, number: int, heads: int) -> Doubles:
        """m * B for the queries (L, C) of a row."""
        if self.weight == 0.0:
            return np.zeros_like(q)
        tokens = self.row(number)
        k, v = tokens @ self.to_k.astype(np.float64).T, tokens @ self.to_v.astype(np.float64).T
        w, after = self.weight, 1.0
        if "penalty" in self.mode:
            w = w * k.shape[1] / 1280.0
        if self.mode == "V only":
            after = w
        elif self.mode == "K+mean(V) w/ C penalty":
            mean = v.sum(axis=0) / len(v)
            k, v = w * k, v - mean + w * mean
        elif self.mode in {"K+V", "K+V w/ C penalty"}:
            k, v = w * k, w * v
        else:
            raise ValueError(self.mode)
        out = after * attention(q, k, v, heads)
        return out if self.mask is None else self.mask.astype(np.float64)[:, None] * out


def attention(q: Doubles, k: Doubles, v: Doubles, heads: int) -> Doubles:
    """(L, C), (T, C), (T, C) to (L, C), head by head."""
    width = q.shape[1] // heads
    parts = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = np.einsum("lc,tc->lt", q[:, own], k[:, own]) / np.sqrt(width)
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        parts.append(np.einsum("lt,tc->lc", e / e.sum(axis=1, keepdims=True), v[:, own]))
    return np.concatenate(parts, axis=1)


def cross_attention(
    hidden: npt.NDArray[np.floating],
    text: npt.NDArray[np.floating],
    weights: Mapping[str, npt.NDArray[np.floating]],
    pictures: Sequence[Picture64],
    heads: int,
) -> Doubles:
    """One site.

    Args:
        hidden: (R, N, L, C): R rows of N pictures in the making.
        text: (R, T, D).
        weights: "to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias".
        pictures: The image prompts.
        heads: Of the site.

    Returns:
        (R, N, L, C).
    """
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    x = hidden.astype(np.float64)
    result = np.empty_like(x)
    for row in range(x.shape[0]):
        states = text[row].astype(np.float64)
        k, v = states @ w["to_k.weight"].T, states @ w["to_v.weight"].T
        for number in range(x.shape[1]):
            q = x[row, number] @ w["to_q.weight"].T
            out = attention(q, k, v, heads)
            for picture in pictures:
                out = out + picture.attended(q, row, heads)
            result[row, number] = out @ w["to_out.0.weight"].T + w["to_out.0.bias"]
    return result
