"""How much an image prompt weighs, as a person writes it; `ipa.prepare.lambdas` makes the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np

from .errors import RequestError, shown

Scale: TypeAlias = "float | Mapping[Any, Any]"
"""A number; or diffusers' nested dict of blocks: {"down": {"block_2": [0.0, 1.0]}, "up": …}; or a
table of sites by number, path or place: {1: 0.5, "down.1.attn.0": 0.8, "mid.attn.0": 1.0}."""

Layers: TypeAlias = "str | Mapping[str, float]"
"""A preset ("style"); several added ("style+layout", or with factors {"style": 1, "layout": 0.5});
or ComfyUI's layer weights ("3:0.5, 6:1.0", transformers counted in the order of execution)."""

Curve: TypeAlias = "str | Sequence[tuple[float, float]]"
"""A name of `ipa.prepare.curves.NAMES`, or points (fraction of the steps in [0, 1], factor)."""

StepWeights: TypeAlias = Callable[[int, int], "Mapping[int | str, float] | None"]
"""Called before step i of n with (i, n): factors on λ by the index of an image prompt, or by the
name of an adapter, for all of its prompts. What is not named keeps its λ."""


def plain_scale(scale: object, name: str) -> Scale:
    """A scale in Python's own numbers, dicts and lists, which nobody else can change.

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
    """A choice of layers as a string or a dict of floats; whether the names exist comes later.

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
    """A curve as a name, or as points in Python's own floats.

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
    """Whether it is a list, a tuple, or an array that has entries."""
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def is_one_of(value: object, names: Collection[str | None]) -> bool:
    """Whether it is one of some names; an array, which is equal to nothing, is none."""
    return (value is None or isinstance(value, str)) and value in names


def plain_number(value: object, name: str) -> float:
    """A finite number as a float. Raises RequestError for anything else."""
    if not is_finite(value):
        raise RequestError(
            f"{name} must be a finite number", found=shown(value), remedy="0 to 1 is usual"
        )
    return float(value)


def check_window(start: object, end: object) -> None:
    """Raise RequestError unless they are fractions of the steps, the first not after the last."""
    if not (is_finite(start) and is_finite(end)) or not 0.0 <= start <= end <= 1.0:
        raise RequestError(
            "an image prompt's window must satisfy 0 ≤ start ≤ end ≤ 1",
            found=f"start={shown(start)}, end={shown(end)}",
            remedy=_of_percent(start, end),
        )


def _of_percent(*numbers: object) -> str:
    """What to write instead, where the largest number can only be percent."""
    finite = [number for number in numbers if is_finite(number)]
    largest = max(finite, default=0.0)
    if not 1.0 < largest <= 100.0:
        return ""
    return f"{largest:g} looks like percent: write {largest / 100:g}"


def is_finite(value: object) -> TypeGuard[float]:
    """Whether it is a finite real number that float64 holds; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def _plain(scale: object, name: str) -> object:
    if isinstance(scale, Mapping):
        return {str(key): _plain(value, f"{name}[{key!r}]") for key, value in scale.items()}
    if isinstance(scale, (list, tuple)):
        return [_plain(value, f"{name}[{index}]") for index, value in enumerate(scale)]
    return plain_number(scale, name)
