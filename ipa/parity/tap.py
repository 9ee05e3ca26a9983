"""What watches the stages of a run."""

from __future__ import annotations

from typing import Protocol

from ipa.contract.backend import Floats
from ipa.contract.errors import RequestError


class Tap(Protocol):
    """Told of every stage in the order in which they are computed, a part before its whole."""

    def wants(self, stage: str) -> bool:
        """Whether to be told of a stage; what nobody wants costs nothing."""

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        """Be told of a stage.

        Args:
            stage: Its name (`ipa.parity.stages`).
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
