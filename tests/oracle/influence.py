"""Shares of image prompts at one cross-attention, from their definition, in float64.

For every query: the parts that text and pictures add to the output before its projection, as
vectors over all heads and channels; the length of each over the sum of all lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

Doubles = np.ndarray


@dataclass(frozen=True)
class Source:
    """Something that is attended to: states (T, D), matrices (C, D), its weight, its pictures."""

    states: Doubles
    to_k: Doubles
    to_v: Doubles
    scale: float = 1.0
    mask: Doubles | None = None
    pictures: int = 1


@dataclass(frozen=True)
class SiteWeights:
    """The matrices of one site, read from the files as they were written."""

    to_q: Doubles
    to_k: Doubles
    to_v: Doubles
    images: dict[str, tuple[Doubles, Doubles]]

    @classmethod
    def read(cls, folder: Path, path: str, number: int, adapters: Sequence[str]) -> SiteWeights:
        unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        own = [unet[f"{path}.to_{x}.weight"].astype(np.float64) for x in "qkv"]
        images = {}
        for name in adapters:
            file = load_file(folder / f"{name}.safetensors")
            keys, values = (file[f"ip_adapter.{number}.to_{x}_ip.weight"] for x in "kv")
            images[name] = (keys.astype(np.float64), values.astype(np.float64))
        return cls(*own, images)


def parts(x: Doubles, to_q: Doubles, source: Source, heads: int) -> list[Doubles]:
    """What each picture of a source adds: (L, C) each."""
    queries, width = x @ to_q.T, to_q.shape[0] // heads
    keys, values = source.states @ source.to_k.T, source.states @ source.to_v.T
    tokens = len(source.states) // source.pictures
    found = [np.zeros_like(queries) for _ in range(source.pictures)]
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = queries[:, own] @ keys[:, own].T / np.sqrt(width)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        for picture, part in enumerate(found):
            its = slice(picture * tokens, (picture + 1) * tokens)
            part[:, own] = weights[:, its] @ values[its, own]
    mask = np.ones(len(x)) if source.mask is None else source.mask
    return [source.scale * mask[:, None] * part for part in found]


def shares(x: Doubles, to_q: Doubles, sources: Sequence[Source], heads: int) -> Doubles:
    """(sum of all pictures of all sources, L)."""
    lengths = [
        np.linalg.norm(part, axis=1)
        for source in sources
        for part in parts(x.astype(np.float64), to_q, source, heads)
    ]
    return np.stack(lengths) / np.sum(lengths, axis=0)
