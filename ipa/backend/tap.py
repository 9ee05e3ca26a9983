"""Taps: the protocol of what watches a run, and of a backend's hooks for it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ipa.arrays import Floats
from ipa.errors import RequestError


class Tap(Protocol):
    """A callback for every stage, in the order of computation, a part before its whole."""

    def wants(self, stage: str) -> bool:
        """Whether the tap wants a stage; what nobody wants costs nothing."""

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        """Take a stage; a returned array replaces it.

        Args:
            stage: Its name (`ipa.backend.stages`).
            array: float32 in the layout that all backends share: pictures and feature maps (B, C,
                H, W), sequences (B, L, C). The tap's own: it may keep it.

        Returns:
            What the rest of the run is to take instead, of the same shape; None: as it is.
        """


def check_tap(tap: object) -> None:
    """Raise RequestError unless a value is a tap, or None."""
    is_tap = callable(tap) and callable(getattr(tap, "wants", None))
    if tap is not None and (not is_tap or isinstance(tap, type)):
        raise RequestError(
            "tap is told of the stages of a run",
            found=type(tap).__name__,
            remedy="pass an object with wants(stage), called with (stage, array)",
        )


class Emit(Protocol):
    """A callback for modules' outputs, by the names of `ipa.backend.stages`."""

    def wants(self, name: str) -> bool:
        """Whether a module, "unet.conv_in", is wanted."""

    def __call__(self, name: str, array: Floats) -> Floats | None:
        """Take an output; a returned array of the same shape replaces it."""


class Taps(Protocol):
    """A backend's hooks for taps. Nothing is computed otherwise than unwatched."""

    def hooked(self, emit: Emit) -> AbstractContextManager[None]:
        """A context in which every module of every network is watched."""

    def read(self, value: Any) -> dict[str, Floats]:
        """The arrays in a method's return value, by name; "" for an array itself.

        Of `TextStates` "states" and, where there is, "pooled"; of `ImageTokens` "conditional" and
        "unconditional"; of a conditioning "image.N.<site>.to_k", "….to_v" (R, T, C) and "….mask"
        (L,). Pictures and latents are (…, C, H, W).
        """

    def written(self, value: Any, arrays: Mapping[str, Floats]) -> Any:
        """A return value with some or all arrays replaced, in its own precision."""
