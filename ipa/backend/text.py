"""A prompt and its sizes, as a backend is given them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.arrays import Pair


@dataclass(frozen=True, slots=True)
class TextStates:
    """The states of one prompt; arrays are a backend's own tensors.

    Attributes:
        states: (1, T, D), what the UNet attends to; T is 77 for every chunk of the text.
        pooled: (1, P), the whole prompt in one vector, which SDXL adds to the timestep; None of
            models with one text encoder.
    """

    states: Any
    pooled: Any = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextOptions:
    """How the ids of a text become states, beside the model's own settings.

    Attributes:
        clip_skip: How many of the last layers are left out, as diffusers counts them: of one
            encoder the last, of SDXL's the one before.
        weights: (text encoders, chunks, 77), for each id; None is 1 for all.
        empty: (text encoders, 77), the ids of no text: weights then lead from its states to the
            text's own. None: they multiply states (`ipa.prepare.text.weights`).
        learned: For each text encoder the embeddings (V, D) of ids from its vocabulary's size on
            (textual inversion), or none at all.
    """

    clip_skip: int = 0
    weights: npt.NDArray[np.float64] | None = None
    empty: npt.NDArray[np.int32] | None = None
    learned: tuple[npt.NDArray[np.float32], ...] = ()

    def weights_of(self, encoder: int, chunk: int) -> npt.NDArray[np.float64] | None:
        """The weights (77,) of one chunk; None where all are 1."""
        if self.weights is None:
            return None
        weights: npt.NDArray[np.float64] = self.weights[encoder, chunk]
        return None if (weights == 1.0).all() else weights


PLAIN = TextOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The six numbers that SDXL adds to the timestep (arXiv 2307.01952, section 2.2), in pixels.

    Attributes:
        original_size: Of a training picture before it was scaled: (height, width).
        crops_coords_top_left: What was cut off: (top, left).
        target_size: What it was trained at: (height, width).
    """

    original_size: Pair
    crops_coords_top_left: Pair
    target_size: Pair

    @property
    def numbers(self) -> tuple[int, ...]:
        """The six, in the order of the UNet."""
        return (*self.original_size, *self.crops_coords_top_left, *self.target_size)

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> Sizes:
        """The sizes from their six numbers."""
        a, b, c, d, e, f = numbers
        return cls(original_size=(a, b), crops_coords_top_left=(c, d), target_size=(e, f))
