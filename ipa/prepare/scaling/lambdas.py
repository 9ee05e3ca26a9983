"""The λ of every site and step: the one table that scales, curves and layers make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from ipa.arrays import Doubles
from ipa.checks import plain_number
from ipa.errors import RequestError, shown
from ipa.model.sites import Site
from ipa.request.image_prompt import ImagePrompt
from ipa.request.profiles import HOUSE, Profile
from ipa.request.scales import Scale

from .curves import curve_factors, is_open
from .layers import composition_factors, layer_factors
from .scales import site_scales


def lambda_table(
    prompt: ImagePrompt,
    default: Scale,
    sites: Sequence[Site],
    steps: int,
    window: npt.NDArray[np.bool_] | None = None,
    profile: Profile = HOUSE,
) -> Doubles:
    """The λ of one image prompt, (S, n) in float64: sites by number, steps.

    Args:
        prompt: Its scale, layers, curve, start and end are used.
        default: The adapter's scale, for a prompt that has none of its own.
        sites: The UNet's cross-attentions.
        steps: n, evaluations of the network.
        window: Whether the prompt is on at each step (`windows.open_steps`); None follows
            `curves.is_open`.
        profile: Whose reading of layers is followed.

    Raises:
        RequestError: The weights do not fit this UNet, or their product is beyond float64.
    """
    prompt_scale = cast(
        "Scale | None", prompt.scale
    )  # a prompt with one per picture is taken apart before
    scale = site_scales(default if prompt_scale is None else prompt_scale, sites)
    weights = np.array(scale) * layer_factors(prompt.layers, sites)
    if profile.composition_weight == "own":
        apart = composition_factors(prompt.layers, sites)
        weights = np.where(apart == 0.0, weights, apart)
    if profile.middle_block == "left out":
        weights = np.where([site.section == "mid" for site in sites], 0.0, weights)
    if window is None:
        window = np.array([is_open(prompt.start, prompt.end, i, steps) for i in range(steps)])
    over_steps = np.where(window, curve_factors(prompt.curve, steps), 0.0)
    with np.errstate(over="ignore"):
        table = np.multiply.outer(weights, over_steps) + 0.0  # no -0.0
    if not np.isfinite(table).all():
        raise RequestError("an image prompt's weights are beyond float64", remedy="0 to 1 is usual")
    return np.asarray(table)


def check_weights(weights: object) -> None:
    """Raise RequestError unless the `weights` callback is a function, or None."""
    if weights is not None and not callable(weights):
        raise RequestError(
            "weights is called before each step",
            found=type(weights).__name__,
            remedy="pass a function of (step, steps), or ImagePrompt(…, curve=…)",
        )


def prompt_factors(given: Mapping[int | str, float] | None, adapters: Sequence[str]) -> list[float]:
    """The factors on λ that a callback gave, one per image prompt; 1 by default.

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
