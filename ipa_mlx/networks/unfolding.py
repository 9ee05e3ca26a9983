"""Convolutions by unfolding and a matrix product, where MLX's own way leaves Apple's M5 idle.

MLX 0.32 has Winograd for 3 × 3 convolutions of 4096 pixels and more, whose products use the M5's
neural accelerators, as all matrix products do. Below that it takes its implicit GEMM, which does
not. Unfolded, of 512 output channels and more, MLX's pull request 4214 measured 2.0 to 2.7 times
its speed there; on older chips nothing is gained, so MLX's way stays.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx

from ipa.errors import RequestError

from ..device import Device, device

SWITCH = "IPA_MLX_CONV_ROUTE"
"""The environment variable that says which way: one of `ROUTES`."""

ROUTES = ("auto", "mlx", "unfold")
"""By the chip; MLX's own everywhere; unfolded on every device where the sizes are those."""

_WINOGRAD_PIXELS = 4096  # of all pictures of a batch: from there on MLX takes Winograd
_LEAST_OUTPUTS = 512
_ACCELERATED = 17  # the generation of Apple's GPUs that has neural accelerators: M5

_chosen: ContextVar[str | None] = ContextVar("chosen", default=None)


@contextmanager
def routed(route: str) -> Iterator[None]:
    """A context in which convolutions go one way, whatever the environment says."""
    token = _chosen.set(_checked(route))
    try:
        yield
    finally:
        _chosen.reset(token)


def route() -> str:
    """The way that is asked for. Raises RequestError if the environment names none."""
    return _chosen.get() or _checked(os.environ.get(SWITCH, "auto"))


def is_unfolded(x: mx.array, outputs: int) -> bool:
    """Whether a 3 × 3 convolution of (B, H, W, C) is to be unfolded."""
    batch, height, width, _ = x.shape
    if outputs < _LEAST_OUTPUTS or batch * height * width >= _WINOGRAD_PIXELS:
        return False
    chosen = route()
    if chosen == "auto":
        return device() is Device.METAL and has_neural_accelerators()
    return chosen == "unfold"


def convolved(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """A 3 × 3 convolution with a border of zeros, (B, H, W, C) to (B, H, W, O).

    Every pixel's nine neighbours are written out, nine times the picture, which is small.
    """
    batch, height, width, channels = x.shape
    padded = mx.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    row, picture = (width + 2) * channels, (height + 2) * (width + 2) * channels
    neighbours = mx.as_strided(
        padded,
        (batch, height, width, 3, 3, channels),
        (picture, row, channels, row, channels, 1),
    ).reshape(batch, height, width, 9 * channels)
    matrix = weight.reshape(len(weight), -1).T
    return neighbours @ matrix if bias is None else mx.addmm(bias, neighbours, matrix)


@functools.cache
def has_neural_accelerators() -> bool:
    """Whether this machine's GPU is of Apple's generation 17 or later."""
    return is_accelerated(str(mx.device_info().get("architecture", "")))


def is_accelerated(architecture: str) -> bool:
    """Whether MLX's name of a GPU's architecture, such as "applegpu_g17s", is of an M5 or later."""
    found = re.search(r"applegpu_g(\d+)", architecture)
    return found is not None and int(found[1]) >= _ACCELERATED


def _checked(name: str) -> str:
    if name not in ROUTES:
        raise RequestError(
            f"{SWITCH} must name a way for convolutions",
            found=repr(name),
            remedy=f"one of {', '.join(ROUTES)}",
        )
    return name
