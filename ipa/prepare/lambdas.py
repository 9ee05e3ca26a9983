"""λ, the weight of an image prompt, as a table over cross-attention sites and steps.

    λ[site, step] = scale[site] · layers[site] · window[step] · curve[step]

Everything that a person can say about weights ends in this table, which is all that a backend sees.
A profile may leave the middle block out, and weigh composition by itself (D23 and D24 of
`profiles`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from ipa.contract.errors import RequestError
from ipa.contract.image_prompt import ImagePrompt
from ipa.contract.sites import Site
from ipa.contract.weights import Scale

from .curves import Doubles, curve_factors, is_open
from .layers import composition_factors, layer_factors
from .profiles import HOUSE, Profile
from .scales import site_scales


def lambda_table(
    prompt: ImagePrompt,
    default: Scale,
    sites: Sequence[Site],
    steps: int,
    window: npt.NDArray[np.bool_] | None = None,
    profile: Profile = HOUSE,
) -> Doubles:
    """λ of one image prompt, (S, n) in float64: sites in the order of their numbers, steps.

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
    own = cast("Scale | None", prompt.scale)  # a prompt with one per picture is taken apart before
    scale = site_scales(default if own is None else own, sites)
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
