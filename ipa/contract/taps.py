"""How a backend lets the stages of its computation be watched; `ipa.parity` does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Emit(Protocol):
    """Told of what a network's modules give, by `ipa.parity.stages`' names of them."""

    def wants(self, name: str) -> bool:
        """Whether to be told of a module, "unet.conv_in"."""

    def __call__(self, name: str, array: Floats) -> Floats | None:
        """Be told; what is returned, of the same shape, is to stand in for it."""


class Taps(Protocol):
    """What a backend has for those who watch. Nothing is computed otherwise than unwatched."""

    def hooked(self, emit: Emit) -> AbstractContextManager[None]:
        """Tell of every module of every network that is used inside."""

    def read(self, value: Any) -> dict[str, Floats]:
        """The arrays in what a method of the backend gave, by name; "" for an array itself.

        Of `TextStates` "states" and, where there is, "pooled"; of `ImageTokens` "conditional" and
        "unconditional"; of a conditioning "image.N.<site>.to_k", "….to_v" (R, T, C) and "….mask"
        (L,). Pictures and latents are (…, C, H, W).
        """

    def written(self, value: Any, arrays: Mapping[str, Floats]) -> Any:
        """The same with other arrays, some or all, in the value's own precision."""
