"""What a caller's `weights` says before a step, as one factor per image prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ipa.contract.errors import RequestError, shown
from ipa.contract.weights import plain_number


def check_weights(weights: object) -> None:
    """Raise RequestError unless the callback of a run is one, or None."""
    if weights is not None and not callable(weights):
        raise RequestError(
            "weights is called before each step",
            found=type(weights).__name__,
            remedy="pass a function of (step, steps), or ImagePrompt(…, curve=…)",
        )


def prompt_factors(given: Mapping[int | str, float] | None, adapters: Sequence[str]) -> list[float]:
    """Factors on λ, one per image prompt; 1 where nothing is said.

    Args:
        given: By index of an image prompt, or by name of an adapter for all of its prompts; where
            both name a prompt, they are multiplied.
        adapters: The name of each image prompt's adapter.

    Raises:
        RequestError: A key means no image prompt, or a factor is no finite number.
    """
    factors = [1.0] * len(adapters)
    if given is None:
        return factors
    if not isinstance(given, Mapping):
        raise RequestError(
            "weights must give back a dict of factors, or None",
            found=shown(given),
            remedy="write lambda step, steps: {0: 0.5}",
        )
    for key, value in given.items():
        factor = plain_number(value, f"weights[{key!r}]")
        meant = [rank for rank, name in enumerate(adapters) if _means(key, rank, name)]
        if not meant:
            raise RequestError(
                "weights names no image prompt of this call",
                found=shown(key),
                remedy=f"0 to {len(adapters) - 1}, or {', '.join(dict.fromkeys(adapters))}"
                if adapters
                else "pass image_prompts",
            )
        for rank in meant:
            factors[rank] *= factor
    return factors


def _means(key: object, rank: int, adapter: str) -> bool:
    if isinstance(key, str):
        return key == adapter
    return isinstance(key, (int, np.integer)) and not isinstance(key, bool) and key == rank
