"""Who watches a run, and how a backend lets its networks be watched."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ipa.arrays import Floats
from ipa.errors import RequestError


class Tap(Protocol):
    """Told of every stage in the order in which they are computed, a part before its whole."""

    def wants(self, stage: str) -> bool:
        """Whether to be told of a stage; what nobody wants costs nothing."""

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        """Be told of a stage.

        Args:
            stage: Its name (`ipa.backend.stages`).
            array: float32 in the layout that all backends share: pictures and feature maps (B, C,
                H, W), sequences (B, L, C). The tap's own: it may keep it.

        Returns:
            What the rest of the run is to take instead, of the same shape; None: as it is.
        """


def check_tap(tap: object) -> None:
    """Raise RequestError unless the tap of a run is one, or None."""
    is_tap = callable(tap) and callable(getattr(tap, "wants", None))
    if tap is not None and (not is_tap or isinstance(tap, type)):
        raise RequestError(
            "tap is told of the stages of a run",
            found=type(tap).__name__,
            remedy="pass an object with wants(stage), called with (stage, array)",
        )


class Emit(Protocol):
    """Told of what a network's modules give, by `ipa.backend.stages`' names of them."""

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
