"""What a model is told of a prompt, and of sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Pair: TypeAlias = tuple[int, int]
"""Of sizes: height, width. Of a crop: top, left."""


@dataclass(frozen=True, slots=True)
class TextStates:
    """One prompt, encoded; arrays are a backend's own tensors.

    Attributes:
        states: (1, T, D), what the UNet attends to.
        pooled: (1, P), the whole prompt in one vector, which SDXL adds to the timestep; None of
            models with one text encoder.
    """

    states: Any
    pooled: Any = None


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
