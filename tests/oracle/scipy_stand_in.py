"""What diffusers' schedulers ask of scipy, where scipy is not installed: quadrature, a beta law."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import SimpleNamespace
from unittest.mock import patch

import mpmath
import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(21)  # as many as one panel of quad has
_MODULES = (
    "deis_multistep",
    "dpmsolver_multistep",
    "dpmsolver_singlestep",
    "euler_discrete",
    "heun_discrete",
    "k_dpm_2_ancestral_discrete",
    "k_dpm_2_discrete",
    "lms_discrete",
    "sasolver",
    "unipc_multistep",
)


def _quad(function: Callable[[float], float], start: float, end: float, **_: float) -> list[float]:
    half, centre = 0.5 * (float(end) - float(start)), 0.5 * (float(end) + float(start))
    values = [float(function(centre + half * node)) for node in _NODES]
    return [float(half * np.sum(_WEIGHTS * values))]


@cache
def _ppf(probability: float, a: float, b: float) -> float:
    """The quantile of a beta law, by Newton's method from a rough one."""
    probability = float(probability)
    if probability in {0.0, 1.0}:
        return probability
    if probability > 0.5:
        return 1.0 - _ppf(1.0 - probability, b, a)
    whole = mpmath.beta(a, b)
    x = mpmath.mpf(probability * a * whole) ** (1 / a)
    for _ in range(6):
        below = mpmath.betainc(a, b, 0, x) / whole - probability
        x -= below * whole * x ** (1 - a) * (1 - x) ** (1 - b)
    return float(x)


@contextmanager
def scipy_or_stand_in() -> Iterator[None]:
    """Within it, diffusers' schedulers find what they need of scipy."""
    if importlib.util.find_spec("scipy"):
        yield
        return
    scipy = SimpleNamespace(stats=SimpleNamespace(beta=SimpleNamespace(ppf=_ppf)))
    with ExitStack() as stack:
        for name in _MODULES:
            module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
            for attribute, value in (
                ("is_scipy_available", lambda: True),
                ("scipy", scipy),
                ("integrate", SimpleNamespace(quad=_quad)),
            ):
                stack.enter_context(patch.object(module, attribute, value, create=True))
        yield
