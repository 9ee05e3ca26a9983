"""diffusers' own UNet in float64, its cross-attentions replaced by the formulas of attention64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from ipa_torch.files.weights import quiet
from oracle.attention64 import Picture64, cross_attention


class Site64:
    """A cross-attention: its number in adapters' files, the rank t of its transformer in the order
    of execution, and the number of its queries."""

    def __init__(self, number: int, t: int, queries: int) -> None:
        self.number, self.t, self.queries = number, t, queries


Pictures = Callable[[Site64], Sequence[Picture64]]
"""The image prompts at a site."""


class Processor64:
    """An attention processor of diffusers that computes in numpy.

    `run` is shared by all of a UNet: the transformers that were called so far.
    """

    def __init__(self, path: str, number: int, rows: int, pictures: Pictures, run: list) -> None:
        self.transformer = path.partition(".transformer_blocks")[0]
        self.number, self.rows, self.pictures, self.run = number, rows, pictures, run

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        if self.transformer not in self.run:
            self.run.append(self.transformer)
        batch, length, channels = hidden_states.shape
        count = batch // self.rows
        site = Site64(self.number, self.run.index(self.transformer), length)
        out = cross_attention(
            hidden_states.numpy().reshape(self.rows, count, length, channels),
            encoder_hidden_states.numpy()[::count],
            {name: value.numpy() for name, value in attn.state_dict().items()},
            self.pictures(site),
            attn.heads,
        )
        return torch.from_numpy(out.reshape(batch, length, channels))


@functools.cache
def _double(folder: Path) -> UNet2DConditionModel:
    with quiet():
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float64)
    return unet.eval()


@torch.no_grad()
def unet64(
    folder: Path,
    latents: np.ndarray[Any, Any],
    timestep: float,
    text: np.ndarray[Any, Any],
    pictures: Pictures,
) -> np.ndarray[Any, Any]:
    """One evaluation: latents (N, C, h, w) and text (R, T, D) to (R, N, C, h, w)."""
    unet = _double(folder)
    (rows, count), run = (len(text), len(latents)), list[str]()
    for number, name in enumerate(unet.attn_processors):
        path = name.removesuffix(".processor")
        if path.endswith("attn2"):
            processor = Processor64(path, number, rows, pictures, run)
            unet.get_submodule(path).set_processor(processor)
    out = unet(
        torch.from_numpy(np.concatenate([latents] * rows).astype(np.float64)),
        torch.tensor(timestep, dtype=torch.float64),
        torch.from_numpy(np.repeat(text, count, axis=0).astype(np.float64)),
    ).sample
    return out.unflatten(0, (rows, count)).numpy()
