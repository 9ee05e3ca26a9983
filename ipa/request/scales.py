"""Scales of an image prompt: the forms of λ, and what it multiplies."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np

from ipa.checks import is_finite, plain_number
from ipa.errors import RequestError, shown

Scale: TypeAlias = float | Mapping[Any, Any]
"""A number; or diffusers' nested dict of blocks: {"down": {"block_2": [0.0, 1.0]}, "up": …}; or a
table of sites by number, path or place: {1: 0.5, "down.1.attn.0": 0.8, "mid.attn.0": 1.0}."""


Layers: TypeAlias = str | Mapping[str, float]
"""A preset ("style"); several added ("style+layout", or with factors {"style": 1, "layout": 0.5});
or ComfyUI's layer weights ("3:0.5, 6:1.0", transformers counted in the order of execution)."""


Curve: TypeAlias = str | Sequence[tuple[float, float]]
"""A name of `prepare.scaling.curves.NAMES`, or points (fraction of the steps in [0, 1], factor)."""


StepWeights: TypeAlias = Callable[[int, int], "Mapping[int | str, float] | None"]
"""Called before step i of n with (i, n): factors on λ by the index of an image prompt, or by the
name of an adapter, for all of its prompts. What is not named keeps its λ."""


def plain_scale(scale: object, name: str) -> Scale:
    """Check a scale, in Python's own numbers, dicts and lists; a copy.

    Raises:
        RequestError: A number is not finite, at any depth of diffusers' nested form.
    """
    plain: Any = _plain(scale, name)
    if isinstance(plain, list):
        raise RequestError(
            f"{name} must be a number or a dict of blocks",
            found=shown(scale),
            remedy='write {"up": {"block_0": [0.0, 1.0, 0.0]}}',
        )
    return cast("Scale", plain)


def plain_layers(layers: object, name: str) -> Layers:
    """Check a choice of layers, as a string or a dict of floats; names are checked later.

    Raises:
        RequestError: It is neither, or a factor is not finite.
    """
    if isinstance(layers, str):
        return layers
    if not isinstance(layers, Mapping) or not layers:
        raise RequestError(
            f"{name} must be the name of a preset, or a dict of names and factors",
            found=shown(layers),
            remedy='write "style" or {"style": 1.0, "layout": 0.5}',
        )
    return {str(key): plain_number(value, f"{name}[{key!r}]") for key, value in layers.items()}


def plain_curve(curve: object, name: str) -> Curve:
    """Check a curve, as a name or as points in Python's own floats.

    Raises:
        RequestError: A point is no pair of finite numbers, a fraction is outside [0, 1], or the
            fractions go back.
    """
    if isinstance(curve, str):
        return curve
    if not is_list(curve) or len(curve) == 0:
        raise RequestError(
            f"{name} must be a name or a list of points (fraction, factor)",
            found=shown(curve),
            remedy='write "ease_out" or [(0.0, 1.0), (0.5, 0.2)]',
        )
    points = []
    for number, point in enumerate(curve):
        if not is_list(point) or len(point) != 2:
            raise RequestError(f"{name}[{number}] must be two numbers", found=shown(point))
        fraction, factor = (plain_number(value, f"{name}[{number}]") for value in point)
        points.append((fraction, factor))
    fractions = [fraction for fraction, _ in points]
    if fractions != sorted(fractions) or not 0.0 <= fractions[0] <= fractions[-1] <= 1.0:
        raise RequestError(
            f"{name} needs fractions of the steps in [0, 1] that never go back",
            found=", ".join(f"{fraction:g}" for fraction in fractions),
        )
    return tuple(points)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value is a list, a tuple, or an array that has entries."""
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def is_one_of(value: object, names: Collection[str | None]) -> bool:
    """Whether a value is one of some names; an array, which is equal to nothing, is none."""
    return (value is None or isinstance(value, str)) and value in names


def check_window(start: object, end: object) -> None:
    """Raise RequestError unless start and end are fractions of the steps, in order."""
    if not (is_finite(start) and is_finite(end)) or not 0.0 <= start <= end <= 1.0:
        raise RequestError(
            "an image prompt's window must satisfy 0 ≤ start ≤ end ≤ 1",
            found=f"start={shown(start)}, end={shown(end)}",
            remedy=_of_percent(start, end),
            argument=window_fault(start),
        )


def window_fault(start: object) -> str:
    """Which end of a window to put an error beside: "start" where that is out of range."""
    return "end" if is_finite(start) and 0.0 <= start <= 1.0 else "start"


def _of_percent(*numbers: object) -> str:
    """Advice where the largest number can only be a percentage."""
    finite = [number for number in numbers if is_finite(number)]
    largest = max(finite, default=0.0)
    if not 1.0 < largest <= 100.0:
        return ""
    return f"{largest:g} looks like percent: write {largest / 100:g}"


def _plain(scale: object, name: str) -> object:
    if isinstance(scale, Mapping):
        return {str(key): _plain(value, f"{name}[{key!r}]") for key, value in scale.items()}
    if isinstance(scale, (list, tuple)):
        return [_plain(value, f"{name}[{index}]") for index, value in enumerate(scale)]
    return plain_number(scale, name)


FULL_WIDTH = 1280  # channels of the inner layers of SD1.5 and SDXL, which have no penalty


@dataclass(frozen=True, slots=True)
class EmbedsScaling:
    """A mode of what λ multiplies.

    Attributes:
        is_inside: Keys and values, in place of what attention makes of them.
        is_of_mean: Of the values only their mean over the tokens.
        is_penalised: λ is multiplied by C/1280 before.
    """

    is_inside: bool = True
    is_of_mean: bool = False
    is_penalised: bool = False

    def weight(self, scale: float, channels: int) -> float:
        """The factor on keys and values at a site of so many channels."""
        return scale * (channels / FULL_WIDTH) if self.is_penalised else scale


V_ONLY = "V only"
"""The default, and the published formula: λ multiplies the output, which is to multiply V."""


EMBEDS_SCALINGS: Mapping[str, EmbedsScaling] = {
    V_ONLY: EmbedsScaling(is_inside=False),
    "K+V": EmbedsScaling(),
    "K+V w/ C penalty": EmbedsScaling(is_penalised=True),
    "K+mean(V) w/ C penalty": EmbedsScaling(is_of_mean=True, is_penalised=True),
}


def check_embeds_scaling(name: object) -> str:
    """Check a mode, in its own spelling; case, and space, "-" or "_" do not matter.

    Raises:
        RequestError: There is none of this name; the nearest is named.
    """
    spellings = {_letters(scaling): scaling for scaling in EMBEDS_SCALINGS}
    plain = _letters(name) if isinstance(name, str) else ""
    if plain in spellings:
        return spellings[plain]
    near = difflib.get_close_matches(plain, spellings, n=1, cutoff=0.0 if plain else 1.0)
    guess = f"did you mean {spellings[near[0]]!r}? " if near else ""
    raise RequestError(
        "there is no embeds_scaling of this name",
        argument="embeds_scaling",
        found=shown(name),
        remedy=f"{guess}All: {', '.join(EMBEDS_SCALINGS)}",
    )


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())
