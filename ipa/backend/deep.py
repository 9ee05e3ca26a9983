"""The deep part of a network, which a run may take from an earlier evaluation (DeepCache)."""

from __future__ import annotations

from typing import Any


class DeepPart:
    """What one run keeps of the deep part of its network (arXiv 2312.00858); no backend holds it.

    A UNet's way up has as many layers as its way down has results, and each layer takes one of
    those. Branch b takes result b, counted from the top (0 is `conv_in`'s). What layer b of the way
    up, counted from the end, is given from below is the deep feature: all deeper layers made it.

    Attributes:
        branch: b.
        feature: The backend's own array, with rows as the evaluation had that made it; None before.
    """

    def __init__(self, branch: int) -> None:
        self.branch = branch
        self.feature: Any = None

    @property
    def shallow(self) -> int:
        """The number of results and of layers that an evaluation computes which reuses it."""
        return self.branch + 1


def shallow_layers(deep: DeepPart | None) -> int | None:
    """The number of layers to compute; None for all of them."""
    return None if deep is None or deep.feature is None else deep.shallow
