"""The last features of a network at earlier evaluations, of which a run may forecast one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_PAST = 100
"""The most evaluations whose features are kept."""


class PastFeatures:
    """What one run keeps of its network's last features (arXiv 2603.01623); no backend holds it.

    Such a feature is what enters a UNet's last norm, with rows as the evaluation had that made it.

    Attributes:
        weights: Of the evaluation to come: those of kept features by their numbers, whose sum is
            its feature; None where it is to be computed, and kept.
    """

    def __init__(self) -> None:
        self.weights: Mapping[int, float] | None = None
        self._features: dict[int, Any] = {}
        self._number = 0

    def at(self, number: int, weights: Mapping[int, float] | None) -> None:
        """Say which evaluation is to come."""
        self._number, self.weights = number, weights

    def keep(self, feature: Any) -> None:
        """Keep the feature that was computed, a backend's own array."""
        self._features[self._number] = feature
        while len(self._features) > MAX_PAST:
            del self._features[min(self._features)]

    def terms(self, rows: int) -> list[tuple[float, Any]]:
        """The weights and features of a forecast; of a feature with more rows the last ones."""
        weights = self.weights or {}
        return [(weight, self._features[number][-rows:]) for number, weight in weights.items()]
