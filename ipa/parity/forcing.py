"""Teacher forcing: stages take the reference's input, so an error stays where it is made."""

from __future__ import annotations

from collections.abc import Mapping

from ipa.contract.backend import Floats

from .tap import Tap


class Forced:
    """Shows a run's stages to another tap, and puts a reference's in the place of each.

    Stages that the reference does not have are left as they are.
    """

    def __init__(self, reference: Mapping[str, Floats], tap: Tap) -> None:
        self._reference, self._tap = reference, tap

    def wants(self, stage: str) -> bool:
        """See `Tap`."""
        return stage in self._reference or self._tap.wants(stage)

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        """See `Tap`."""
        if self._tap.wants(stage):
            self._tap(stage, array)
        return self._reference.get(stage)
